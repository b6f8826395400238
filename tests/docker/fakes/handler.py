"""What the fake servers have in common: JSON bodies, streams of events, prompts that are scripts. Standard library."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler
from typing import Any

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


class JsonHandler(BaseHTTPRequestHandler):
    """One connection, on which requests and answers are JSON."""

    protocol_version = "HTTP/1.1"

    def read_body(self) -> Any:
        """Return the request's body."""
        return json.loads(self.rfile.read(int(self.headers["Content-Length"])))

    def answer(self, status: int, body: dict[str, Any]) -> None:
        """Send a whole answer."""
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def begin_stream(self) -> None:
        """Send the head of a stream of events."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def send_event(self, event: dict[str, Any] | None) -> None:
        """Send an event; None is `[DONE]`."""
        data = f"data: {'[DONE]' if event is None else json.dumps(event)}\n\n".encode()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def end_stream(self) -> None:
        """Send what ends a stream."""
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *_: object) -> None: ...


def script_in(prompt: str | None) -> dict[str, Any] | None:
    """Return the script that the prompt is, or None for any other prompt."""
    try:
        script = json.loads(prompt or "")
    except ValueError:
        return None
    return script if isinstance(script, dict) else None


def usage(script: dict[str, Any]) -> dict[str, int]:
    """Return the counts of an answer to the script."""
    tokens = script.get("tokens", 1)
    return {"prompt_tokens": 1, "completion_tokens": tokens, "total_tokens": 1 + tokens}
