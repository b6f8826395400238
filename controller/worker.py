"""gunicorn's thread worker, mended where one client could delay or confuse another."""

from __future__ import annotations

import json
import select
import socket
import threading
import uuid
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

from gunicorn.glogging import Logger
from gunicorn.http.errors import LimitRequestHeaders, LimitRequestLine, ParseException
from gunicorn.workers.gthread import ThreadWorker

from controller.api.errors import envelope
from controller.errors import BodyInvalid
from controller.turnstile import TURNSTILE

CUT_BEFORE_S = 2.0
ASKS_AGAIN_MS = 2
FIRST_DATA_S = 0.02


class ControllerLogger(Logger):  # type: ignore[misc]
    """gunicorn's own log, without the line per request that it would compose even though nobody writes it."""

    def access(self, resp: Any, req: Any, environ: Any, request_time: Any) -> None:
        """Nothing: requests are not logged."""


class ControllerWorker(ThreadWorker):  # type: ignore[misc]
    """Closes connections off the main loop, and answers what is no HTTP in the API's own error shape."""

    def handle(self, conn: Any) -> Any:
        """A client that asks again at once keeps its thread: by way of the main loop two threads had to be woken.

        Only while there are threads for all connections, so that nobody waits for one.
        """
        kept = self._handle_in_turn(conn)
        while kept is True and self.alive and self.nr_conns <= self.cfg.threads and _asks_again(conn.sock):
            kept = self._handle_in_turn(conn)
        return kept

    def _handle_in_turn(self, conn: Any) -> Any:
        """One whose first bytes take their time is waited for by gunicorn, out of turn."""
        if not conn.initialized and not conn.wait_for_data(FIRST_DATA_S):
            return super().handle(conn)
        with TURNSTILE.scope():
            return super().handle(conn)

    def finish_request(self, conn: Any, fs: Future[Any]) -> None:
        """gunicorn lingers up to 2 s on a connection that it closes, on the thread that accepts all others."""
        if not fs.cancelled() and fs.exception() is None and fs.result() is False:
            self.nr_conns -= 1
            self.tpool.submit(conn.close, graceful=True)
        else:
            super().finish_request(conn, fs)

    def handle_exit(self, sig: int, frame: Any) -> None:
        """SIGTERM: what is still under way shortly before the grace ends is cut with an error, not in silence."""
        super().handle_exit(sig, frame)
        relay = self.wsgi.extensions["orchestrar"].relay
        timer = threading.Timer(max(self.cfg.graceful_timeout - CUT_BEFORE_S, 0), relay.cut_all)
        timer.daemon = True
        timer.start()

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """gunicorn would answer in HTML."""
        if not isinstance(exc, ParseException):
            super().handle_error(req, client, addr, exc)
            return
        status = {LimitRequestLine: "414 URI Too Long", LimitRequestHeaders: "431 Request Header Fields Too Large"}
        self.log.info("a request that is no HTTP was refused: %s", exc)
        body = json.dumps(envelope(BodyInvalid(f"the request is not usable: {exc}"), uuid.uuid4().hex)).encode()
        head = (
            f"HTTP/1.1 {status.get(type(exc), '400 Bad Request')}\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        with suppress(OSError):
            client.sendall(head.encode() + body)


def _asks_again(client: socket.socket) -> bool:
    poll = select.poll()
    poll.register(client, select.POLLIN)
    return bool(poll.poll(ASKS_AGAIN_MS))
