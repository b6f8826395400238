"""A client's connection as gunicorn's threads use it: each wait for a client is bounded, and so is their number."""

from __future__ import annotations

import errno
import io
import select
import socket
import threading
import time
from collections.abc import Mapping
from typing import Any

from gunicorn.http.errors import ParseException
from gunicorn.http.parser import RequestParser
from gunicorn.http.unreader import SocketUnreader
from gunicorn.workers.gthread import TConn

from controller.server.request_gathering import RequestGatherer, Stage, body_deadline
from controller.server.slow_clients import CROWDED_STALL_S, MOST_READERS, MOST_WRITERS, WRITE_STALL_S
from controller.system.turnstile import TURNSTILE

RECEIVE_BYTES = 64 * 1024
# The kernel's send buffer of each client. By default it grows to megabytes and reports room only when a quarter of them
# was read: too much memory for a client that reads nothing, and a slow reader would look like one that reads nothing.
SEND_BUFFER_BYTES = 128 * 1024
_readers = threading.BoundedSemaphore(MOST_READERS)
_writers = threading.BoundedSemaphore(MOST_WRITERS)


class NoReaderLeft(TimeoutError):
    """The maximum number of threads already waits for the rest of a body."""


# What reading a request's body may raise; TimeoutError (an OSError) if it arrives too slowly.
BODY_ERRORS = (OSError, ParseException)


def client_socket(environ: Mapping[str, Any]) -> socket.socket | None:
    """Return the socket of a request's client; None if the server (as in tests) does not show it."""
    return environ.get("gunicorn.socket")


class ClientSocket(socket.socket):
    """A socket that never blocks; only `sendall` waits, as long as the client takes something now and then."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock.family, sock.type, sock.proto, fileno=sock.detach())
        super().setblocking(False)
        self.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        self._timeout_s = WRITE_STALL_S

    def setblocking(self, flag: bool, /) -> None:
        """Do nothing: gunicorn's threads would make it block."""

    def settimeout(self, value: float | None, /) -> None:
        """Set how long to wait for the client without any progress."""
        self._timeout_s = value or WRITE_STALL_S

    def gettimeout(self) -> float:
        """Return how long to wait for the client without any progress."""
        return self._timeout_s

    def sendall(self, data: bytes, flags: int = 0, /) -> None:  # type: ignore[override]
        """Send all of the data. Raises BrokenPipeError when the client takes nothing for too long."""
        count = self._send_some(data)
        if count < len(data):
            self._send_rest(memoryview(data)[count:])

    def _send_rest(self, rest: memoryview) -> None:
        may_wait = _writers.acquire(blocking=False)
        stall_s = self._timeout_s if may_wait else CROWDED_STALL_S
        try:
            with TURNSTILE.away():
                while rest:
                    if not _happens(self, select.POLLOUT, stall_s):
                        raise BrokenPipeError(errno.EPIPE, f"the client took nothing for {stall_s:g} s")
                    rest = rest[self._send_some(rest) :]
        finally:
            if may_wait:
                _writers.release()

    def _send_some(self, data: bytes | memoryview) -> int:
        try:
            return self.send(data)
        except BlockingIOError:
            return 0


class Unreader(SocketUnreader):  # type: ignore[misc]
    """What gunicorn's parser reads from: first what has arrived already, then the rest of a long body as it arrives."""

    def __init__(self, sock: ClientSocket) -> None:
        super().__init__(sock)
        self.begin(b"", 0.0)

    def begin(self, data: bytes, now: float) -> None:
        """Begin a new request, of which `data` has arrived; forget the last one."""
        self.buf = io.BytesIO(data)
        self._began_at = self._last_byte_at = now
        self._received_bytes = 0

    def chunk(self, size_hint: int | None = None) -> bytes:
        """Return what has arrived, at least one byte; b"" when the client has closed.

        Raises TimeoutError when the client sends too slowly, NoReaderLeft when too many threads wait for bodies.
        """
        size = min(max(size_hint or 0, self.mxchunk), self.max_body_chunk)
        while True:
            try:
                data: bytes = self.sock.recv(size)
            except BlockingIOError:
                self._wait()
                continue
            self._last_byte_at = time.monotonic()
            self._received_bytes += len(data)
            return data

    def _wait(self) -> None:
        deadline = body_deadline(self._began_at, self._last_byte_at, self._received_bytes)
        left_s = min(deadline - time.monotonic(), self.sock.gettimeout())
        if not _readers.acquire(blocking=False):
            raise NoReaderLeft(f"{MOST_READERS} threads already wait for the bodies of other requests")
        try:
            with TURNSTILE.away():
                if left_s <= 0 or not _happens(self.sock, select.POLLIN, left_s):
                    raise TimeoutError(f"{self._received_bytes} bytes of it arrived in time, and then too few")
        finally:
            _readers.release()


class ClientConnection(TConn):  # type: ignore[misc]
    """A client's connection, and the `request` that arrives on it."""

    def __init__(self, cfg: Any, sock: ClientSocket, client: Any, server: Any) -> None:
        super().__init__(cfg, sock, client, server)
        self.initialized = True
        self.parser = RequestParser(cfg, sock, client)
        self.parser.unreader = self._unreader = Unreader(sock)
        self.request = RequestGatherer(time.monotonic())
        self.drained_bytes = 0

    def init(self) -> None:
        """Do nothing: the connection is ready from the beginning."""

    def receive(self) -> Stage:
        """Read what has arrived of the request, without waiting."""
        try:
            data = self.sock.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return Stage.MORE
        except OSError:
            return Stage.CLOSED
        if data:
            return self.request.add(data, time.monotonic())
        # With a whole head, the client can still be answered that its body is incomplete.
        return Stage.CLOSED if self.request.is_in_head else Stage.READY

    def hand_to_parser(self) -> None:
        """Give what has arrived to the parser, for the thread that takes the request."""
        self._unreader.begin(self.request.data, time.monotonic())

    def begin_next_request(self) -> Stage:
        """Begin the next request, of which some may have arrived with the last one."""
        now = time.monotonic()
        self.request = RequestGatherer(now)
        ahead = self._unreader.buf.getvalue()
        return self.request.add(ahead, now) if ahead else Stage.MORE

    def drain(self) -> bool:
        """Discard what still arrives on a connection that ends; return whether there may be more."""
        try:
            data = self.sock.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return True
        except OSError:
            return False
        self.drained_bytes += len(data)
        return bool(data) and self.drained_bytes <= RECEIVE_BYTES


def _happens(sock: socket.socket, event: int, wait_s: float) -> bool:
    poll = select.poll()
    poll.register(sock, event)
    return bool(poll.poll(wait_s * 1000))
