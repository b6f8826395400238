"""gunicorn's thread worker, changed where one client could delay, starve or confuse another."""

from __future__ import annotations

import errno
import json
import logging
import select
import selectors
import socket
import time
import uuid
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Any

from gunicorn.glogging import Logger
from gunicorn.http.errors import LimitRequestHeaders, LimitRequestLine, ParseException

from controller.error_bodies import envelope
from controller.errors import BodyInvalid, OrchestrarError, RequestTimeout
from controller.server.client_connection import ClientConnection, ClientSocket
from controller.server.request_gathering import MAX_HEAD_BYTES, Stage
from controller.server.signals import SignalHandlingWorker
from controller.server.slow_clients import HEAD_S, LINGER_S
from controller.system.turnstile import TURNSTILE

log = logging.getLogger(__name__)

# How long a thread waits for the next request of the client that it has just answered.
NEXT_REQUEST_MS = 2
SWEEP_EVERY_S = 0.25
# Between attempts to accept a connection while the process has no free descriptor.
NO_ROOM_S = 0.05
_NOTHING_TO_ACCEPT = (errno.EAGAIN, errno.EWOULDBLOCK)
_NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class ControllerLogger(Logger):  # type: ignore[misc]
    """gunicorn's own log without the line per request, which gunicorn would compose even if it is not written."""

    def access(self, resp: Any, req: Any, environ: Any, request_time: Any) -> None:
        """Do nothing: requests are not logged."""


class ControllerWorker(SignalHandlingWorker):
    """Gives a connection a thread only from when its request has arrived until its answer is sent.

    Before and after that the main loop waits for it, without blocking and with a deadline for each connection. A
    request that is not HTTP, or arrives too slowly, is answered in the API's own error shape.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # In the order in which they came.
        self._arriving: dict[ClientConnection, None] = {}
        self._lingering: dict[ClientConnection, float] = {}
        self._swept_at = 0.0

    def accept(self, listener: Any) -> None:
        """Accept a client. When there are too many, the one that has waited longest without work is dropped."""
        self._accept_one(listener)

    def _accept_one(self, listener: Any) -> bool:
        """Return whether there was a connection to accept."""
        try:
            sock, address = listener.accept()
        except OSError as exc:
            if exc.errno in _NO_ROOM:
                self.log.warning("a connection could not be accepted: %s", exc)
                self._shed()
                time.sleep(NO_ROOM_S)
            elif exc.errno != errno.ECONNABORTED and exc.errno not in _NOTHING_TO_ACCEPT:
                raise
            return exc.errno == errno.ECONNABORTED
        self.nr_conns += 1
        if self.nr_conns >= self.worker_connections:
            self._shed()
        conn = ClientConnection(self.cfg, ClientSocket(sock), address, listener.getsockname())
        self._await_request(conn, conn.receive())
        return True

    def _await_request(self, conn: ClientConnection, stage: Stage) -> None:
        """Continue with a connection that is not registered with the poller."""
        if stage is Stage.READY:
            self.enqueue_req(conn)
        elif stage is Stage.CLOSED:
            self._close(conn)
        elif stage is Stage.TOO_LONG:
            self._refuse(conn, _too_long(), "431 Request Header Fields Too Large")
        else:
            self._arriving[conn] = None
            self.poller.register(conn.sock, selectors.EVENT_READ, partial(self._on_more_of_request, conn))

    def _on_more_of_request(self, conn: ClientConnection, sock: socket.socket) -> None:
        """Read more of a request, unless another event of the same round has dropped its connection."""
        if conn in self._arriving and (stage := conn.receive()) is not Stage.MORE:
            del self._arriving[conn]
            self.poller.unregister(sock)
            self._await_request(conn, stage)

    def on_client_socket_readable(self, conn: ClientConnection, client: socket.socket) -> None:
        """Begin the next request of a kept connection; its time counts from now."""
        if conn not in self.keepalived_conns:
            return
        self.keepalived_conns.remove(conn)
        self.poller.unregister(client)
        conn.begin_next_request()
        self._await_request(conn, conn.receive())

    def handle(self, conn: ClientConnection) -> Stage | None:
        """Answer a request that has arrived; return how far the next one is, or None at the connection's end.

        A client that sends its next request at once keeps its thread: by way of the main loop, two threads would have
        to wake up. That happens only while there are threads for all connections, so that none waits for one.
        """
        stage = Stage.READY
        while True:
            with TURNSTILE.scope():
                if stage is Stage.MORE:
                    stage = conn.receive()
                if stage is not Stage.READY:
                    return stage
                conn.hand_to_parser()
                if not super().handle(conn):
                    return None
                stage = conn.begin_next_request()
            has_thread = self.alive and self.nr_conns <= self.cfg.threads
            if not has_thread or (stage is Stage.MORE and not _has_next_request(conn.sock)):
                return stage

    def finish_request(self, conn: ClientConnection, fs: Future[Stage | None]) -> None:
        """Keep or end a connection that a thread has answered; gunicorn would block the main loop for up to 2 s."""
        stage = None if fs.cancelled() or fs.exception() is not None else fs.result()
        if stage is None:
            self._linger(conn)
        elif stage is not Stage.MORE or conn.request.data:
            self._await_request(conn, stage)
        else:
            conn.timeout = time.monotonic() + (self.cfg.keepalive if self.alive else LINGER_S)
            self.keepalived_conns.append(conn)
            self.poller.register(conn.sock, selectors.EVENT_READ, partial(self.on_client_socket_readable, conn))

    def murder_pending(self) -> None:
        """Drop connections whose time is up; gunicorn calls this in every round of its loop, at least each second."""
        now = time.monotonic()
        if now < self._swept_at + SWEEP_EVERY_S:
            return
        self._swept_at = now
        for conn in [conn for conn in self._arriving if conn.request.deadline <= now]:
            del self._arriving[conn]
            self.poller.unregister(conn.sock)
            if conn.request.data:
                self._refuse(conn, _too_slow(conn), "408 Request Timeout")
            else:
                self._close(conn)
        for conn in [conn for conn, until in self._lingering.items() if until <= now]:
            self._end_linger(conn)

    def set_accept_enabled(self, enabled: bool) -> None:
        """Start or stop accepting; when the worker ends, accept all that have connected and refuse later ones."""
        super().set_accept_enabled(enabled)
        if not enabled and not self.alive:
            for listener in self.sockets:
                while self._accept_one(listener):
                    pass
                listener.close()

    def _cap_keepalive(self, deadline: float) -> None:
        """Bound, when the worker ends, also how long it waits for the rest of a head."""
        super()._cap_keepalive(deadline)
        for conn in self._arriving:
            if conn.request.is_in_head:
                conn.request.deadline = min(conn.request.deadline, deadline)

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Answer a request that is not HTTP in the API's error shape; gunicorn would answer in HTML."""
        if not isinstance(exc, ParseException):
            super().handle_error(req, client, addr, exc)
            return
        status = {LimitRequestLine: "414 URI Too Long", LimitRequestHeaders: "431 Request Header Fields Too Large"}
        self.log.info("refused a request that is not HTTP: %s", exc)
        error = BodyInvalid(f"the request is not usable: {exc}")
        with suppress(OSError):
            client.sendall(_refusal(error, status.get(type(exc), "400 Bad Request")))

    def _refuse(self, conn: ClientConnection, error: OrchestrarError, status: str) -> None:
        """Send the error and end the connection; a client whose buffer has no room for it gets nothing."""
        self.log.info("refused a request: %s", error.message)
        with suppress(OSError):
            conn.sock.send(_refusal(error, status))
        self._linger(conn)

    def _linger(self, conn: ClientConnection) -> None:
        """Close a connection after its client has, or after LINGER_S: closed at once, our last bytes could be lost."""
        try:
            conn.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._close(conn)
            return
        if conn.drain():
            self._lingering[conn] = time.monotonic() + LINGER_S
            self.poller.register(conn.sock, selectors.EVENT_READ, partial(self._on_leftover, conn))
        else:
            self._close(conn)

    def _on_leftover(self, conn: ClientConnection, sock: socket.socket) -> None:
        if conn in self._lingering and not conn.drain():
            self._end_linger(conn)

    def _end_linger(self, conn: ClientConnection) -> None:
        del self._lingering[conn]
        self.poller.unregister(conn.sock)
        self._close(conn)

    def _close(self, conn: ClientConnection) -> None:
        self.nr_conns -= 1
        conn.close()

    def _shed(self) -> None:
        """Drop a connection without work: an ended one, else one without a request, else the slowest to send one."""
        if self._lingering:
            self._end_linger(next(iter(self._lingering)))
        elif self.keepalived_conns:
            conn = self.keepalived_conns.popleft()
            self.poller.unregister(conn.sock)
            self._close(conn)
        elif self._arriving:
            conn = next(iter(self._arriving))
            del self._arriving[conn]
            self.poller.unregister(conn.sock)
            self._close(conn)


def _refusal(error: OrchestrarError, status: str) -> bytes:
    body = json.dumps(envelope(error, uuid.uuid4().hex)).encode()
    fields = f"Connection: close\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return f"HTTP/1.1 {status}\r\n{fields}\r\n\r\n".encode() + body


def _too_long() -> OrchestrarError:
    return BodyInvalid(f"the request is not usable: its head is longer than {MAX_HEAD_BYTES} bytes")


def _too_slow(conn: ClientConnection) -> OrchestrarError:
    part = f"head did not arrive within {HEAD_S:g} s" if conn.request.is_in_head else "body arrived too slowly"
    return RequestTimeout(f"the request's {part}; send it at once")


def _has_next_request(client: socket.socket) -> bool:
    """Wait a moment for the next request; return whether it has begun to arrive."""
    poll = select.poll()
    poll.register(client, select.POLLIN)
    return bool(poll.poll(NEXT_REQUEST_MS))
