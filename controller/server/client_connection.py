"""A client's connection as gunicorn's threads have it: every wait for the client is bounded, and how many wait."""

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
from controller.system.turnstile import TURNSTILE

RECEIVE_BYTES = 64 * 1024
# The kernel's buffer before each client. Left alone it grows to megabytes, and has room again only when a quarter of
# them was read: much memory for one who reads nothing, and one who reads slowly would seem to read nothing either.
SEND_BUFFER_BYTES = 128 * 1024
# A reader that takes nothing for so long is dropped; one that takes its time is not.
WRITE_STALL_S = 30.0
# The same while too many are waited for.
CROWDED_STALL_S = 0.05
MOST_READERS = 32
MOST_WRITERS = 32
_readers = threading.BoundedSemaphore(MOST_READERS)
_writers = threading.BoundedSemaphore(MOST_WRITERS)


class NoReaderLeft(TimeoutError):
    """As many threads wait for the rest of a body as may."""


# What reading a request's body may raise; TimeoutError, an OSError, for one that comes too slowly.
BODY_ERRORS = (OSError, ParseException)


def client_socket(environ: Mapping[str, Any]) -> socket.socket | None:
    """Return the socket of a request's client; None behind a server (as in tests) that does not give it away."""
    return environ.get("gunicorn.socket")


class ClientSocket(socket.socket):
    """Never blocks by itself; `sendall` waits, for as long as the client takes something now and then."""

    def __init__(self, accepted: socket.socket) -> None:
        super().__init__(accepted.family, accepted.type, accepted.proto, fileno=accepted.detach())
        super().setblocking(False)
        self.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        self._timeout_s = WRITE_STALL_S

    def setblocking(self, flag: bool, /) -> None:
        """Nothing: gunicorn's threads want theirs to block."""

    def settimeout(self, value: float | None, /) -> None:
        """What `gettimeout` tells, as a bound for those who wait."""
        self._timeout_s = value or WRITE_STALL_S

    def gettimeout(self) -> float:
        """How long to wait for the client without any progress."""
        return self._timeout_s

    def sendall(self, data: bytes, flags: int = 0, /) -> None:  # type: ignore[override]
        """Send it all. Raises BrokenPipeError when the client takes nothing for too long."""
        sent = self._send_some(data)
        if sent < len(data):
            self._send_rest(memoryview(data)[sent:])

    def _send_rest(self, rest: memoryview) -> None:
        has_place = _writers.acquire(blocking=False)
        stall_s = self._timeout_s if has_place else CROWDED_STALL_S
        try:
            with TURNSTILE.away():
                while rest:
                    if not _happens(self, select.POLLOUT, stall_s):
                        raise BrokenPipeError(errno.EPIPE, f"the client took nothing for {stall_s:g} s")
                    rest = rest[self._send_some(rest) :]
        finally:
            if has_place:
                _writers.release()

    def _send_some(self, data: bytes | memoryview) -> int:
        try:
            return self.send(data)
        except BlockingIOError:
            return 0


class Unreader(SocketUnreader):  # type: ignore[misc]
    """Where gunicorn's parser reads: what has arrived already, and then the rest of a long body, waited for."""

    def __init__(self, sock: ClientSocket) -> None:
        super().__init__(sock)
        self.begin(b"", 0.0)

    def begin(self, arrived: bytes, now: float) -> None:
        """A new request, of which this has come; of the last one nothing is left."""
        self.buf = io.BytesIO(arrived)
        self._begun_at = self._heard_at = now
        self._received_bytes = 0

    def chunk(self, size_hint: int | None = None) -> bytes:
        """What has come, at least a byte; b"" when the client has closed.

        Raises TimeoutError when it sends too slowly, NoReaderLeft when too many are waited for.
        """
        size = min(max(size_hint or 0, self.mxchunk), self.max_body_chunk)
        while True:
            try:
                data: bytes = self.sock.recv(size)
            except BlockingIOError:
                self._wait()
                continue
            self._heard_at = time.monotonic()
            self._received_bytes += len(data)
            return data

    def _wait(self) -> None:
        deadline = body_deadline(self._begun_at, self._heard_at, self._received_bytes)
        left_s = min(deadline - time.monotonic(), self.sock.gettimeout())
        if not _readers.acquire(blocking=False):
            raise NoReaderLeft(f"{MOST_READERS} requests whose bodies take their time are waited for already")
        try:
            with TURNSTILE.away():
                if left_s <= 0 or not _happens(self.sock, select.POLLIN, left_s):
                    raise TimeoutError(f"{self._received_bytes} bytes of it came in time, and then too little")
        finally:
            _readers.release()


class ClientConnection(TConn):  # type: ignore[misc]
    """A client's connection and the request that arrives on it."""

    def __init__(self, cfg: Any, sock: ClientSocket, client: Any, server: Any) -> None:
        super().__init__(cfg, sock, client, server)
        self.initialized = True
        self.parser = RequestParser(cfg, sock, client)
        self.parser.unreader = self._unreader = Unreader(sock)
        self.arrival = RequestGatherer(time.monotonic())
        self.drained_bytes = 0

    def init(self) -> None:
        """Nothing: it is ready from the beginning."""

    def receive(self) -> Stage:
        """Take in what has come of the request, without waiting."""
        try:
            data = self.sock.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return Stage.MORE
        except OSError:
            return Stage.ENDED
        if data:
            return self.arrival.add(data, time.monotonic())
        # With a whole head there is somebody to tell that the body is not.
        return Stage.ENDED if self.arrival.is_in_head else Stage.READY

    def hand_over(self) -> None:
        """Give what has arrived to the parser, for the thread that takes the request."""
        self._unreader.begin(self.arrival.received, time.monotonic())

    def turn_to_next(self) -> Stage:
        """Begin with the next request; some of it may have come with the last one."""
        now = time.monotonic()
        self.arrival = RequestGatherer(now)
        ahead = self._unreader.buf.getvalue()
        return self.arrival.add(ahead, now) if ahead else Stage.MORE

    def drain(self) -> bool:
        """Throw away what still comes of a client that is being left; whether there may be more."""
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
