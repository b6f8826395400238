"""A small real server in a runner's place, for tests of the controller's API."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class StubRunner(BaseHTTPRequestHandler):
    """Ready at once; a test's subclass answers the POSTs."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_whole(200, b'{"status": "ok", "phases": {"load_s": 0.5}}')

    def send_whole(
        self, status: int, body: bytes, content_type: str = "application/json", length: int | None = None
    ) -> None:
        """Send an answer with its length, or with another length that the test promises."""
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@contextmanager
def serving(handler: type[StubRunner]) -> Iterator[int]:
    """Serve this handler within the block; yield the port."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()
