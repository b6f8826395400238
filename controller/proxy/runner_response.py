"""A runner's answer in flight, over a connection that is given back at its end."""

from __future__ import annotations

import copy
import math
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from controller.errors import ModelDied, Overloaded, UpstreamError, UpstreamInvalid, UpstreamTimeout
from controller.proxy.http1 import Body, BrokenOff, Head, Malformed
from controller.system.turnstile import TURNSTILE

# A runner writes a comment every 2 s while it has no token, so a longer silence in a stream is a fault; a plain
# answer is silent until it is whole.
READ_TIMEOUT_S = 300.0
RECEIVE_BYTES = 64 * 1024
MAX_BODY_BYTES = 64 * 1024 * 1024
# Whole answers that are being read: each may have this much, and they share what is beyond it.
OWN_BYTES = 1024 * 1024
SHARED_BYTES = 256 * 1024 * 1024
# A line between two chunks, from when its beginning was seen: no server sends one in pieces.
LINE_S = 10.0
# A whole answer, from when its head was there: servers send it once they have it.
WHOLE_BODY_S = 600.0
_CONNECTION_BROKE = "the model's connection broke in the middle of its answer; the model may have died"


@dataclass(frozen=True)
class RunnerConnection:
    """A connection to a runner, at its port."""

    port: int
    sock: socket.socket


class BufferBudget:
    """The memory that all whole answers together may take. Thread-safe."""

    def __init__(self, left_bytes: int) -> None:
        self._lock = threading.Lock()
        self._left_bytes = left_bytes

    @contextmanager
    def share(self) -> Iterator[Callable[[int], None]]:
        """Yield what to call with the size that an answer has reached; it raises Overloaded when no memory is left.

        The answer's share is given back at the end of the block.
        """
        share_bytes = 0

        def grow(size: int) -> None:
            nonlocal share_bytes
            while size > OWN_BYTES + share_bytes:
                with self._lock:
                    if self._left_bytes < OWN_BYTES:
                        raise Overloaded("large answers take all the memory that is set aside for them; try again soon")
                    self._left_bytes -= OWN_BYTES
                share_bytes += OWN_BYTES

        try:
            yield grow
        finally:
            with self._lock:
                self._left_bytes += share_bytes


_buffers = BufferBudget(SHARED_BYTES)


class InFlightRequest:
    """A request at a model, which other threads may abort for as long as it has a connection. Thread-safe."""

    def __init__(self, container_id: str) -> None:
        self.container_id = container_id
        self.is_aborted = False
        self._lock = threading.Lock()
        self._sock: socket.socket | None = None
        self._cause: UpstreamError | None = None

    def attach(self, sock: socket.socket) -> None:
        """Let an abort end this connection, at once if it came before; replaces the connection of an earlier try."""
        with self._lock:
            self._sock = sock
            if self.is_aborted:
                self._shut_down()

    def detach(self) -> None:
        """Keep later aborts off the connection: it is closed, or free for another request."""
        with self._lock:
            self._sock = None

    def abort(self, cause: UpstreamError | None = None) -> None:
        """End every wait on the connection; the thread that waits there meets ModelDied. The first cause counts."""
        with self._lock:
            # Each raises its own: one exception raised by many would hold all their frames.
            self._cause = self._cause or copy.copy(cause)
            self.is_aborted = True
            self._shut_down()

    def raise_cause(self, failure: Exception) -> None:
        """Raise the cause of the abort from the failure that it made; do nothing if it was not aborted with one."""
        if self._cause is not None:
            raise self._cause from failure

    def _shut_down(self) -> None:
        if self._sock is not None:
            with suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)


class RunnerResponse:
    """An answer that has begun: status and content type are known, the body comes in pieces. Not thread-safe.

    Its bytes are read here by `read_piece`, or elsewhere by a thread that waits for `fileno` and gives them to `feed`.
    """

    def __init__(
        self,
        connection: RunnerConnection,
        head: Head,
        body_start: bytes,
        in_flight: InFlightRequest,
        give_back: Callable[[RunnerConnection], None],
    ) -> None:
        self.status = head.status
        self.content_type = head.content_type
        self._head = head
        self._body = Body(head)
        self._connection: RunnerConnection | None = connection
        self._in_flight = in_flight
        self._give_back = give_back
        self._failure: ModelDied | UpstreamInvalid | None = None
        self._line_began_at: float | None = None
        self._unread = self.feed(body_start) if body_start else b""

    @property
    def is_over(self) -> bool:
        """Whether no more will come; `read_piece` then tells what the end was."""
        return self._failure is not None or self._body.is_over

    def fileno(self) -> int:
        """Return the connection's descriptor, non-blocking."""
        assert self._connection is not None
        return self._connection.sock.fileno()

    def feed(self, data: bytes) -> bytes:
        """Return the body's bytes in the data that came, b"" being the connection's end. Never raises."""
        if not data and self._in_flight.is_aborted:
            # For a body without a length this would be the proper end.
            self.fail(None)
            return b""
        try:
            content = self._body.feed(data)
            self._bound_line(bool(content))
        except BrokenOff as exc:
            self.fail(exc)
            return b""
        except Malformed as exc:
            self._failure = UpstreamInvalid(f"the model's answer is no HTTP: {exc}")
            self._failure.__cause__ = exc
            return b""
        return content

    def _bound_line(self, had_content: bool) -> None:
        """Raise Malformed if a line of the framing comes in drips, each of which would pass for a sign of life."""
        now = time.monotonic()
        if not self._body.is_in_line:
            self._line_began_at = None
        elif self._line_began_at is None or had_content:
            self._line_began_at = now
        elif now > self._line_began_at + LINE_S:
            raise Malformed(f"a line between its chunks has no end within {LINE_S:g} s")

    def fail(self, cause: Exception | None) -> None:
        """Note that the connection failed."""
        self._failure = ModelDied(_CONNECTION_BROKE)
        self._failure.__cause__ = cause

    def await_body(self) -> None:
        """Wait until the body's first bytes are here, which `read_piece` returns. Closes the answer if it raises."""
        try:
            self._unread = self.read_piece()
        except BaseException:
            self.close()
            raise

    def read_piece(self, deadline: float = math.inf) -> bytes:
        """Return what has arrived, at least one byte; empty at the proper end.

        Raises ModelDied if the connection breaks before the end, UpstreamInvalid for what is no HTTP, UpstreamTimeout
        if nothing of the body comes for too long, whatever is sent around it, and UpstreamInvalid if nothing comes by
        the deadline (monotonic) of a whole body.
        """
        silent_at = time.monotonic() + READ_TIMEOUT_S
        try:
            return self._read_until(min(deadline, silent_at))
        except TimeoutError as exc:
            if deadline < silent_at:
                raise UpstreamInvalid(f"the model's answer did not come whole within {WHOLE_BODY_S:g} s") from exc
            raise UpstreamTimeout(f"the model sent nothing for {READ_TIMEOUT_S:g} s") from exc

    def _read_until(self, deadline: float) -> bytes:
        """Return the same as `read_piece`; raise TimeoutError if nothing has come by the deadline (monotonic)."""
        piece, self._unread = self._unread, b""
        while not piece and not self.is_over:
            try:
                data = self._receive(deadline - time.monotonic())
            except TimeoutError:
                raise
            except OSError as exc:
                self.fail(exc)
            else:
                piece = self.feed(data)
        if not piece and self._failure is not None:
            raise self._failure
        return piece

    def _receive(self, within_s: float) -> bytes:
        assert self._connection is not None
        if within_s <= 0:
            raise TimeoutError
        self._connection.sock.settimeout(within_s)
        with TURNSTILE.away():
            return self._connection.sock.recv(RECEIVE_BYTES)

    def read_all(self) -> bytes:
        """Return the whole body. Raises UpstreamInvalid beyond its bounds, Overloaded beyond those of all answers
        together, otherwise like `read_piece`."""
        # One piece of memory: thousands would leave holes between them.
        whole = bytearray()
        deadline = time.monotonic() + WHOLE_BODY_S
        with _buffers.share() as grow:
            while piece := self.read_piece(deadline):
                whole += piece
                if len(whole) > MAX_BODY_BYTES:
                    raise UpstreamInvalid(f"the model's answer is larger than {MAX_BODY_BYTES} bytes")
                grow(len(whole))
            return bytes(whole)

    def close(self) -> None:
        """Give the connection back if the body was read to its end, else close it. Idempotent."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        self._in_flight.detach()
        is_whole = self._body.is_over and not self._body.has_excess and self._failure is None
        if is_whole and self._head.keeps_connection:
            self._give_back(connection)
        else:
            connection.sock.close()
