"""A server as llama.cpp's or vLLM's: arguments, a port and health of its own, the OpenAI API, and nothing of ours.

It knows one model, by the name it is told in llama.cpp's way or in vLLM's. A message (or prompt) that is a JSON object
is a script; any other is echoed: {"tokens": 5, "delay_s": 0.1, "crash_after": 2, "error_after": 2, "status": 400}.
`GET /asked` tells the last request.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
last_request: dict[str, Any] = {"broken_off": 0}


class Failed(Exception):
    """The answer to a request, or to the rest of it: a status and a sentence."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status

    def body(self) -> dict[str, Any]:
        """As such servers write it: the code is a number."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": str(self), "type": kind, "code": self.status, "n_ctx": 64}}


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    alias: str
    ready_at: float

    def do_GET(self) -> None:
        if self.path == "/asked":
            self.answer(200, last_request)
        elif self.path != os.environ.get("FAKE_READY", "/health"):
            self.answer(404, Failed(404, "File Not Found").body())
        elif time.monotonic() < self.ready_at:
            self.answer(503, Failed(503, "Loading model").body())
        else:
            self.answer(200, {"status": "ok"})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        last_request.update(path=self.path, body=body)
        try:
            if self.path not in (CHAT, COMPLETIONS, EMBEDDINGS):
                raise Failed(404, "File Not Found")
            if body.get("model") != self.alias:
                raise Failed(404, f"The model `{body.get('model')}` does not exist.")
            self.answer_model(body)
        except Failed as exc:
            self.answer(exc.status, exc.body())

    def answer_model(self, body: dict[str, Any]) -> None:
        if self.path == EMBEDDINGS:
            vector = {"object": "embedding", "index": 0, "embedding": [0.5, -0.5]}
            self.answer(200, {"object": "list", "data": [vector], "model": self.alias})
            return
        prompt = body["messages"][-1]["content"] if self.path == CHAT else body["prompt"]
        try:
            script = json.loads(prompt)
        except ValueError:
            script = None
        if not isinstance(script, dict):
            script = {"echo": prompt}
        if "status" in script:
            raise Failed(script["status"], "as you wished")
        if body.get("stream"):
            self.stream(script, bool(body.get("stream_options", {}).get("include_usage")))
        else:
            self.answer(200, self.chunk("".join(words(script)), "stop", whole=True) | {"usage": usage(script)})

    def stream(self, script: dict[str, Any], with_usage: bool) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            try:
                for word in words(script):
                    self.event(self.chunk(word, None))
                self.event(self.chunk("", "stop"))
                if with_usage:
                    self.event(self.chunk("", None) | {"choices": [], "usage": usage(script)})
            except Failed as exc:
                self.event(exc.body())
            self.event(None)
            self.wfile.write(b"0\r\n\r\n")
        except ConnectionError:
            last_request["broken_off"] += 1
            self.close_connection = True

    def chunk(self, text: str, reason: str | None, *, whole: bool = False) -> dict[str, Any]:
        words_of = {"message" if whole else "delta": {"role": "assistant", "content": text}}
        choice = words_of if self.path == CHAT else {"text": text}
        choices = [{"index": 0, "finish_reason": reason, **choice}]
        return {"id": "x", "object": "chat.completion", "created": 1, "model": self.alias, "choices": choices}

    def event(self, event: dict[str, Any] | None) -> None:
        data = f"data: {'[DONE]' if event is None else json.dumps(event)}\n\n".encode()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def answer(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None: ...


def words(script: dict[str, Any]) -> Iterator[str]:
    for number in range(script.get("tokens", 1)):
        if number == script.get("crash_after"):
            os._exit(9)
        if number == script.get("error_after"):
            raise Failed(500, "the engine gave up")
        time.sleep(script.get("delay_s", 0))
        yield script.get("echo", f"word{number} ")


def usage(script: dict[str, Any]) -> dict[str, int]:
    tokens = script.get("tokens", 1)
    return {"prompt_tokens": 1, "completion_tokens": tokens, "total_tokens": 1 + tokens}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?")
    parser.add_argument("--model")
    parser.add_argument("--alias", "--served-model-name", "--served-name", required=True)
    parser.add_argument("--port", type=int, default=5000)
    options, others = parser.parse_known_args()
    path = options.model or options.folder
    if os.path.isdir(path):
        assert os.listdir(path), f"{path} is empty"
    else:
        with open(path, "rb") as model:
            assert model.read(4) == b"GGUF", f"{path} is no GGUF file"
    last_request["others"] = others
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    Handler.alias = options.alias
    Handler.ready_at = time.monotonic() + float(os.environ.get("FAKE_START_S", "0"))
    server = ThreadingHTTPServer(("0.0.0.0", options.port), Handler)
    server.daemon_threads = True
    server.serve_forever()


main()
