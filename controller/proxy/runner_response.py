"""A runner's answer under way, over a connection that is given back at its end."""

from __future__ import annotations

import math
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from controller.errors import ModelDied, Overloaded, UpstreamInvalid, UpstreamTimeout
from controller.proxy.http1 import Body, BrokenOff, Head, Malformed
from controller.system.turnstile import TURNSTILE

# A runner writes a comment every 2 s while it has no token, so a longer silence in a stream is a fault; a plain
# answer is silent until it is whole.
READ_TIMEOUT_S = 300.0
RECEIVE_BYTES = 64 * 1024
MAX_BODY_BYTES = 64 * 1024 * 1024
# Whole answers that are being read: each may have so much, and what is beyond that they share.
OWN_BYTES = 1024 * 1024
SHARED_BYTES = 256 * 1024 * 1024
# A line between two chunks, from when it was seen to have begun: no server sends one in pieces.
LINE_S = 10.0
# A whole answer, from when its head was there: servers send it when they have it.
WHOLE_BODY_S = 600.0
_BROKE_OFF = "the model's connection broke in the middle of its answer; the model may have died"


@dataclass(frozen=True)
class RunnerConnection:
    """A connection to a runner, at its port."""

    port: int
    sock: socket.socket


class BufferBudget:
    """What all whole answers together may take. Thread-safe."""

    def __init__(self, left_bytes: int) -> None:
        self._lock = threading.Lock()
        self._left_bytes = left_bytes

    @contextmanager
    def share(self) -> Iterator[Callable[[int], None]]:
        """What is told how large an answer has become; raises Overloaded when there is no room. Given back after it."""
        taken = 0

        def grow(size: int) -> None:
            nonlocal taken
            while size > OWN_BYTES + taken:
                with self._lock:
                    if self._left_bytes < OWN_BYTES:
                        raise Overloaded("large answers take all the memory that there is for them; try again soon")
                    self._left_bytes -= OWN_BYTES
                taken += OWN_BYTES

        try:
            yield grow
        finally:
            with self._lock:
                self._left_bytes += taken


_room = BufferBudget(SHARED_BYTES)


class Abort:
    """Breaks a request off from another thread, until the connection is somebody else's."""

    def __init__(self, sock: socket.socket) -> None:
        self._lock = threading.Lock()
        self._sock: socket.socket | None = sock
        self.has_fired = False

    def fire(self) -> None:
        """End whatever waits on the connection."""
        with self._lock:
            if self._sock is not None:
                self.has_fired = True
                with suppress(OSError):
                    self._sock.shutdown(socket.SHUT_RDWR)

    def disarm(self) -> None:
        """From now on it harms nobody."""
        with self._lock:
            self._sock = None


class RunnerResponse:
    """An answer that has begun: status and content type are known, the body comes in pieces. Not thread-safe.

    Its bytes are read here by `read_piece`, or elsewhere: whoever waits for `fileno` gives them to `feed`.
    """

    def __init__(
        self,
        connection: RunnerConnection,
        head: Head,
        begun: bytes,
        abort: Abort,
        give_back: Callable[[RunnerConnection], None],
    ) -> None:
        self.status = head.status
        self.content_type = head.content_type
        self._head = head
        self._body = Body(head)
        self._connection: RunnerConnection | None = connection
        self._abort = abort
        self._give_back = give_back
        self._failed: ModelDied | UpstreamInvalid | None = None
        self._line_since: float | None = None
        self._begun = self.feed(begun) if begun else b""

    @property
    def is_over(self) -> bool:
        """Whether there is no more to wait for; `read_piece` tells what the end was."""
        return self._failed is not None or self._body.is_over

    def fileno(self) -> int:
        """The connection's descriptor, non-blocking."""
        assert self._connection is not None
        return self._connection.sock.fileno()

    def feed(self, received: bytes) -> bytes:
        """The body's bytes in what was received, b"" being the connection's end."""
        if not received and self._abort.has_fired:
            # For a body without a length this would be the proper end.
            self.broke(None)
            return b""
        try:
            content = self._body.feed(received)
            self._bound_line(bool(content))
        except BrokenOff as exc:
            self.broke(exc)
            return b""
        except Malformed as exc:
            self._failed = UpstreamInvalid(f"the model's answer is no HTTP: {exc}")
            self._failed.__cause__ = exc
            return b""
        return content

    def _bound_line(self, had_content: bool) -> None:
        """Raise Malformed when a line of the framing comes in drips, each of which would pass for a sign of life."""
        now = time.monotonic()
        if not self._body.is_in_line:
            self._line_since = None
        elif self._line_since is None or had_content:
            self._line_since = now
        elif now > self._line_since + LINE_S:
            raise Malformed(f"a line between its chunks has no end within {LINE_S:g} s")

    def broke(self, cause: Exception | None) -> None:
        """Take note that the connection failed."""
        self._failed = ModelDied(_BROKE_OFF)
        self._failed.__cause__ = cause

    def await_body(self) -> None:
        """Return when the body's first bytes are here; `read_piece` gives them. Raises like it, and is closed then."""
        try:
            self._begun = self.read_piece()
        except BaseException:
            self.close()
            raise

    def read_piece(self, deadline: float = math.inf) -> bytes:
        """What has arrived, at least one byte; empty at the proper end.

        Raises ModelDied when the connection breaks before the end, UpstreamInvalid for what is no HTTP,
        UpstreamTimeout when nothing of the body comes for too long, whatever is sent around it. Nothing by the
        deadline (monotonic) of a whole body is UpstreamInvalid.
        """
        silent_at = time.monotonic() + READ_TIMEOUT_S
        try:
            return self._read_until(min(deadline, silent_at))
        except TimeoutError as exc:
            if deadline < silent_at:
                raise UpstreamInvalid(f"the model's answer did not come whole within {WHOLE_BODY_S:g} s") from exc
            raise UpstreamTimeout(f"the model sent nothing for {READ_TIMEOUT_S:g} s") from exc

    def _read_until(self, deadline: float) -> bytes:
        """The same by then (monotonic), else TimeoutError."""
        piece, self._begun = self._begun, b""
        while not piece and not self.is_over:
            try:
                received = self._receive(deadline - time.monotonic())
            except TimeoutError:
                raise
            except OSError as exc:
                self.broke(exc)
            else:
                piece = self.feed(received)
        if not piece and self._failed is not None:
            raise self._failed
        return piece

    def _receive(self, within_s: float) -> bytes:
        assert self._connection is not None
        if within_s <= 0:
            raise TimeoutError
        self._connection.sock.settimeout(within_s)
        with TURNSTILE.away():
            return self._connection.sock.recv(RECEIVE_BYTES)

    def read_all(self) -> bytes:
        """The whole body; raises UpstreamInvalid beyond its bounds, Overloaded beyond those of all answers together,
        else like `read_piece`."""
        # One piece of memory: thousands would leave holes between them.
        whole = bytearray()
        deadline = time.monotonic() + WHOLE_BODY_S
        with _room.share() as grow:
            while piece := self.read_piece(deadline):
                whole += piece
                if len(whole) > MAX_BODY_BYTES:
                    raise UpstreamInvalid(f"the model's answer is larger than {MAX_BODY_BYTES} bytes")
                grow(len(whole))
            return bytes(whole)

    def close(self) -> None:
        """End it: a body read to its end gives the connection back, any other closes it. Idempotent."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        self._abort.disarm()
        was_whole = self._body.is_over and not self._body.has_excess and self._failed is None
        if was_whole and self._head.keeps_connection:
            self._give_back(connection)
        else:
            connection.sock.close()
