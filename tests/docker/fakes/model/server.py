"""A model that obeys: its environment at the start, and its prompt at each request.

FAKE_START_S        seconds until /health is 200; silent, except for:
FAKE_LOG_EVERY_S    a log line this often while it starts
FAKE_PHASE_EVERY_S  another phase in /health this often while it starts
FAKE_EXIT           exit with this code instead of starting
FAKE_EAT_MB         take this much memory at the start
FAKE_EAT_S          and this long for that
FAKE_IGNORE_TERM    ignore SIGTERM

A prompt that is a JSON object is a script; any other is echoed. On /v1/chat/completions the last message is the prompt.
{"tokens": 5, "delay_s": 0.1, "crash_after": 2}  this many words, this long before each, and a crash in the middle
{"prefill_s": 2}     work this long before the first word; a client that leaves ends it
{"early_head": true} send a stream's head before its first word, not with it
{"eat_mb": 500}      take this much memory first
{"hang": true}       stop answering anything, but keep existing
{"busy": 1}          answer 503 once, then as usual
{"status": 400}      answer with this error
{"hostile": "drip"}  answer in a harmful way, see HOSTILE
"""

from __future__ import annotations

import gzip
import json
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from typing import Any

from tests.docker.fakes.handler import CHAT, COMPLETIONS, JsonHandler, script_in, usage

STARTED_AT = time.monotonic()
START_S = float(os.environ.get("FAKE_START_S", "0"))
PHASE_EVERY_S = float(os.environ.get("FAKE_PHASE_EVERY_S", "0"))
NEEDS_PREPARATION = os.environ.get("ORCHESTRAR_MODEL_PATH", "").endswith("/weights")
STEP_S = 0.05
counters: dict[str, Any] = {"requests": 0, "tokens": 0, "prefill_steps": 0, "broken_off": 0, "busy": 0}
memory: list[bytearray] = []

# Harmful ways to answer: what is sent first, what is sent repeatedly, and the pause before each repetition.
OK, JSON = b"HTTP/1.1 200 OK\r\n", b"Content-Type: application/json\r\n"
BOMB = gzip.compress(b" " * (1 << 20)) * 200  # members in a row are decompressed one after the other
HOSTILE: dict[str, tuple[bytes, bytes, float]] = {
    "redirect": (b"HTTP/1.1 302 Found\r\nLocation: /counters\r\nContent-Length: 0\r\n\r\n", b"", 0),
    "gzip bomb": (OK + JSON + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(BOMB) + BOMB, b"", 0),
    "endless header": (OK, b"X-More: and more\r\n" * 1000, 0),
    "line without end": (OK + b"X-More: ", b"x" * 65536, 0),
    "chunk line without end": (OK + JSON + b"Transfer-Encoding: chunked\r\n\r\n", b"0" * 65536, 0),
    "body without end": (OK + JSON + b"\r\n", b" " * 65536, 0),
    "drip": (OK + b"X-More: ", b"x", 0.2),
    "chunk line in drips": (OK + JSON + b"Transfer-Encoding: chunked\r\n\r\n1;", b"x", 0.2),
}


class Server(ThreadingHTTPServer):
    """Accepts as many simultaneous connections as a test may make."""

    daemon_threads = True
    request_queue_size = 128


class Handler(JsonHandler):
    """One connection."""

    def do_GET(self) -> None:
        if self.path == "/counters":
            self.answer(200, counters)
            return
        since_start_s = time.monotonic() - STARTED_AT
        ready = since_start_s >= START_S
        phase = f"loading {since_start_s // PHASE_EVERY_S:g}" if PHASE_EVERY_S else "loading"
        body = {"status": "ok", "phases": {"load_s": START_S}} if ready else {"status": "loading", "phase": phase}
        self.answer(200 if ready else 503, body)

    def do_POST(self) -> None:
        body = self.read_body()
        counters["requests"] += 1
        self.model = body.get("model")
        prompt = body["messages"][-1]["content"] if self.path == CHAT else body.get("prompt")
        script = script_in(prompt)
        if script is None:
            script = {"echo": prompt or json.dumps(body["messages"])}
        if "hostile" in script:
            self.be_hostile(script["hostile"])
            return
        if "hang" in script:
            os.kill(os.getpid(), signal.SIGSTOP)
        eat(script.get("eat_mb", 0))
        if counters["busy"] < script.get("busy", 0):
            counters["busy"] += 1
            script["status"] = 503
        if "status" in script:
            error: dict[str, Any] = {
                "message": "as you wished",
                "type": "t",
                "code": "c",
                "param": None,
                "src": "model",
                "details": {},
            }
            self.answer(script["status"], {"error": error})
        elif body.get("stream"):
            self.stream(script)
        else:
            self.whole(script)

    def be_hostile(self, way: str) -> None:
        """Send what `HOSTILE` has for this way, for half a minute or until the other side hangs up."""
        self.close_connection = True
        first, again, every_s = HOSTILE[way]
        until = time.monotonic() + 30
        try:
            self.wfile.write(first)
            while again and time.monotonic() < until:
                self.wfile.write(again)
                time.sleep(every_s)
        except ConnectionError:
            counters["broken_off"] += 1

    def whole(self, script: dict[str, Any]) -> None:
        try:
            text = "".join(self.words(script))
        except ConnectionError:
            counters["broken_off"] += 1
            self.close_connection = True
            return
        if self.path in (CHAT, COMPLETIONS):
            self.answer(200, {**self.choice(text, "stop", "message"), "usage": usage(script)})
            return
        self.answer(200, {"text": text, "finish_reason": "stop", "usage": usage(script), "timings": {"total_s": 0.1}})

    def stream(self, script: dict[str, Any]) -> None:
        self.has_begun = False
        if script.get("early_head"):
            self.begin()
        try:
            for word in self.words(script):
                self.chunk({"text": word} if self.path == "/inference" else self.choice(word, None, "delta"))
            if self.path == "/inference":
                self.chunk({"done": True, "finish_reason": "stop", "usage": usage(script)})
            else:
                self.chunk(self.choice("", "stop", "delta"))
                self.chunk(None)
            self.end_stream()
        except ConnectionError:
            counters["broken_off"] += 1
            self.close_connection = True

    def begin(self) -> None:
        self.has_begun = True
        self.begin_stream()

    def words(self, script: dict[str, Any]) -> Iterator[str]:
        for _ in range(round(script.get("prefill_s", 0) / STEP_S)):
            time.sleep(STEP_S)
            counters["prefill_steps"] += 1
            if self.client_has_left():
                raise ConnectionError
        for number in range(script.get("tokens", 1)):
            if number == script.get("crash_after"):
                os._exit(9)
            time.sleep(script.get("delay_s", 0))
            counters["tokens"] += 1
            if self.client_has_left():
                raise ConnectionError
            yield script.get("echo", f"word{number} ")

    def client_has_left(self) -> bool:
        poll = select.poll()
        poll.register(self.connection, select.POLLRDHUP)
        return bool(poll.poll(0))

    def choice(self, text: str, reason: str | None, key: str) -> dict[str, Any]:
        """Return text in the shape of the OpenAI API."""
        words = {key: {"role": "assistant", "content": text}} if self.path == CHAT else {"text": text}
        choices = [{"index": 0, "finish_reason": reason, "logprobs": None, **words}]
        return {"id": "fake-1", "object": "fake", "created": 1, "model": self.model, "choices": choices}

    def chunk(self, event: dict[str, Any] | None) -> None:
        if not self.has_begun:
            self.begin()
        self.send_event(event)


def eat(megabytes: float, over_s: float = 0) -> None:
    """Take memory for good, in pages that are written to."""
    for _ in range(int(megabytes)):
        time.sleep(over_s / megabytes)
        memory.append(bytearray(b"x") * (1 << 20))


def chat(every_s: float) -> None:
    """Write log lines until the start is over."""
    while time.monotonic() - STARTED_AT < START_S:
        print(f"still starting after {time.monotonic() - STARTED_AT:.1f} s", flush=True)
        time.sleep(every_s)


def main() -> None:
    if "FAKE_EXIT" in os.environ:
        print("the fake exits as FAKE_EXIT says", file=sys.stderr, flush=True)
        sys.exit(int(os.environ["FAKE_EXIT"]))
    if NEEDS_PREPARATION and not os.path.exists("/model/complete.json"):
        print("this model is not prepared", file=sys.stderr, flush=True)
        sys.exit(78)
    if "FAKE_IGNORE_TERM" in os.environ:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    server = Server(("0.0.0.0", 8000), Handler)
    threading.Thread(target=server.serve_forever).start()
    eat(float(os.environ.get("FAKE_EAT_MB", "0")), float(os.environ.get("FAKE_EAT_S", "0")))
    if "FAKE_LOG_EVERY_S" in os.environ:
        threading.Thread(target=chat, args=[float(os.environ["FAKE_LOG_EVERY_S"])]).start()


main()
