"""An engine that speaks the OpenAI API alone, and obeys the prompt."""

from __future__ import annotations

import json
import threading
from typing import Any, ClassVar

from tests.fakes import HANG_S
from tests.stub_runner import StubRunner

CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
CALLS = [{"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1, "b": [2]}'}}]


class Engine(StubRunner):
    """Repeats the prompt's words; `requests` has path and body of each, `client_left` is set when a client left.

    The prompts `400`, `500` and `503` are answered with that error; `die` stops after a word, `fail` sends an
    error event, `forever` never ends, `call` calls a tool, `think` thinks first, `unfinished` lacks its `[DONE]`.
    """

    requests: ClassVar[list[tuple[str, dict[str, Any]]]]
    client_left: ClassVar[threading.Event]
    port: ClassVar[int]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.requests.append((self.path, body))
        if self.path == EMBEDDINGS:
            self.embed(body)
            return
        prompt = body["messages"][-1]["content"] if self.path == CHAT else body["prompt"]
        if prompt in ("400", "500", "503"):
            error = {"message": "the model's own words", "type": "t", "code": "own_code", "param": "prompt"}
            self.send_whole(int(prompt), json.dumps({"error": error}).encode())
        elif body.get("stream"):
            self.stream(prompt)
        else:
            self.whole(prompt)

    def whole(self, prompt: str) -> None:
        message: dict[str, Any] = {"content": prompt}
        if prompt == "call":
            message = {"content": None, "tool_calls": CALLS}
        elif prompt == "think":
            message = {"content": "yes", "reasoning_content": "hm"}
        choice = {"message": {"role": "assistant", **message}} if self.path == CHAT else {"text": prompt}
        timings = {"prompt_ms": 20.0, "predicted_ms": 50.5}
        answer = {"choices": [{"index": 0, "finish_reason": "length", **choice}], "usage": USAGE, "timings": timings}
        self.send_whole(200, json.dumps(answer).encode())

    def stream(self, prompt: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            self.chunk(b":\n\n")
            if self.path == CHAT:
                self.event(self.choice({"role": "assistant", "content": ""}))
            self.say(prompt)
            self.chunk(b"")
        except ConnectionError:
            self.client_left.set()
            self.close_connection = True

    def say(self, prompt: str) -> None:
        if prompt == "call":
            bits = [{"index": 0, "id": "call_1", "function": {"name": "add", "arguments": ""}}]
            bits += [{"index": 0, "function": {"arguments": bit}} for bit in ('{"a": 1,', ' "b": [2]}')]
            for bit in bits:
                self.event(self.choice({"tool_calls": [bit]}))
        elif prompt == "think":
            self.event(self.choice({"reasoning_content": "hm"}))
            self.event(self.choice({"content": "yes"}))
        else:
            self.words(prompt)
        self.event(self.choice({}, "tool_calls" if prompt == "call" else "stop"))
        self.event({"choices": [], "usage": USAGE})
        if prompt != "unfinished":
            self.chunk(b"data: [DONE]\n\n")

    def words(self, prompt: str) -> None:
        words = prompt.split()
        while words:
            self.event(self.choice({"content": words.pop(0) + " "}))
            if prompt == "die":
                self.wfile.flush()
                self.close_connection = True
                raise BrokenPipeError
            if prompt == "fail":
                self.event({"error": {"message": "the engine failed", "code": "generation_failed"}})
                return
            if prompt == "forever":
                words.append(prompt)
                self.client_left.wait(0.01)

    def choice(self, delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        words = {"delta": delta} if self.path == CHAT else {"text": delta.get("content", "")}
        return {"choices": [{"index": 0, "finish_reason": reason, **words}]}

    def embed(self, body: dict[str, Any]) -> None:
        texts = body["input"] if isinstance(body["input"], list) else [body["input"]]
        rows = [{"index": index, "embedding": [3.0, float(len(text))]} for index, text in enumerate(texts)]
        answer = {"data": rows[::-1], "usage": {"prompt_tokens": 4, "total_tokens": 4}}
        self.send_whole(200, json.dumps(answer).encode())

    def event(self, value: dict[str, Any]) -> None:
        self.chunk(f"data: {json.dumps(value)}\n\n".encode())

    def chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))


def wait_for(event: threading.Event) -> None:
    """Wait until another thread sets the event."""
    assert event.wait(HANG_S)
