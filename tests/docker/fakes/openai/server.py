"""A server like llama.cpp's or vLLM's: its own arguments, port and health, the OpenAI API, and nothing of ours.

It knows one model, by the name that it gets in llama.cpp's way or in vLLM's. A message (or prompt) that is a JSON
object is a script; others are echoed: {"tokens": 5, "delay_s": 0.1, "crash_after": 2, "error_after": 2, "status": 400}.
`GET /last_request` shows the last request.
"""

from __future__ import annotations

import argparse
import os
import signal
import time
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from typing import Any

from tests.docker.fakes.handler import CHAT, COMPLETIONS, JsonHandler, script_in, usage

EMBEDDINGS = "/v1/embeddings"
last_request: dict[str, Any] = {"broken_off": 0}


class Failure(Exception):
    """Ends a request, or the rest of its stream, with a status and a sentence."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status

    def body(self) -> dict[str, Any]:
        """Return the error as such servers write it: the code is a number."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": str(self), "type": kind, "code": self.status, "n_ctx": 64}}


class Handler(JsonHandler):
    """One connection."""

    alias: str
    ready_at: float

    def do_GET(self) -> None:
        if self.path == "/last_request":
            self.answer(200, last_request)
        elif self.path != os.environ.get("FAKE_READY", "/health"):
            self.answer(404, Failure(404, "File Not Found").body())
        elif time.monotonic() < self.ready_at:
            self.answer(503, Failure(503, "Loading model").body())
        else:
            self.answer(200, {"status": "ok"})

    def do_POST(self) -> None:
        body = self.read_body()
        last_request.update(path=self.path, body=body)
        try:
            if self.path not in (CHAT, COMPLETIONS, EMBEDDINGS):
                raise Failure(404, "File Not Found")
            if body.get("model") != self.alias:
                raise Failure(404, f"The model `{body.get('model')}` does not exist.")
            self.answer_model(body)
        except Failure as exc:
            self.answer(exc.status, exc.body())

    def answer_model(self, body: dict[str, Any]) -> None:
        if self.path == EMBEDDINGS:
            vector = {"object": "embedding", "index": 0, "embedding": [0.5, -0.5]}
            self.answer(200, {"object": "list", "data": [vector], "model": self.alias})
            return
        prompt = body["messages"][-1]["content"] if self.path == CHAT else body["prompt"]
        script = script_in(prompt)
        if script is None:
            script = {"echo": prompt}
        if "status" in script:
            raise Failure(script["status"], "as you wished")
        if body.get("stream"):
            self.stream(script, bool(body.get("stream_options", {}).get("include_usage")))
        else:
            self.answer(200, self.chunk("".join(words(script)), "stop", whole=True) | {"usage": usage(script)})

    def stream(self, script: dict[str, Any], with_usage: bool) -> None:
        self.begin_stream()
        try:
            try:
                for word in words(script):
                    self.send_event(self.chunk(word, None))
                self.send_event(self.chunk("", "stop"))
                if with_usage:
                    self.send_event(self.chunk("", None) | {"choices": [], "usage": usage(script)})
            except Failure as exc:
                self.send_event(exc.body())
            self.send_event(None)
            self.end_stream()
        except ConnectionError:
            last_request["broken_off"] += 1
            self.close_connection = True

    def chunk(self, text: str, reason: str | None, *, whole: bool = False) -> dict[str, Any]:
        words_of = {"message" if whole else "delta": {"role": "assistant", "content": text}}
        choice = words_of if self.path == CHAT else {"text": text}
        choices = [{"index": 0, "finish_reason": reason, **choice}]
        return {"id": "x", "object": "chat.completion", "created": 1, "model": self.alias, "choices": choices}


def words(script: dict[str, Any]) -> Iterator[str]:
    for number in range(script.get("tokens", 1)):
        if number == script.get("crash_after"):
            os._exit(9)
        if number == script.get("error_after"):
            raise Failure(500, "the engine gave up")
        time.sleep(script.get("delay_s", 0))
        yield script.get("echo", f"word{number} ")


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
