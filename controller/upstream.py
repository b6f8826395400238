"""A runner's answer under way, over a connection that is given back at its end."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from controller.errors import ModelDied, UpstreamInvalid, UpstreamTimeout
from controller.http1 import Body, BrokenOff, Head, Malformed
from controller.turnstile import TURNSTILE

# A runner writes a comment every 2 s while it has no token, so a longer silence in a stream is a fault; a plain
# answer is silent until it is whole.
READ_TIMEOUT_S = 300.0
RECEIVE_BYTES = 64 * 1024
MAX_BODY_BYTES = 64 * 1024 * 1024
# A whole answer, from when its head was there: servers send it when they have it.
WHOLE_BODY_S = 600.0
_BROKE_OFF = "the model's connection broke in the middle of its answer; the model may have died"


@dataclass(frozen=True)
class Connection:
    """A connection to a runner, at its port."""

    port: int
    sock: socket.socket


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


class Upstream:
    """An answer that has begun: status and content type are known, the body comes in pieces. Not thread-safe.

    Its bytes are read here by `read_piece`, or elsewhere: whoever waits for `fileno` gives them to `feed`.
    """

    def __init__(
        self,
        connection: Connection,
        head: Head,
        begun: bytes,
        abort: Abort,
        give_back: Callable[[Connection], None],
    ) -> None:
        self.status = head.status
        self.content_type = head.content_type
        self._head = head
        self._body = Body(head)
        self._connection: Connection | None = connection
        self._abort = abort
        self._give_back = give_back
        self._failed: ModelDied | None = None
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
            return self._body.feed(received)
        except (BrokenOff, Malformed) as exc:
            self.broke(exc)
            return b""

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

    def read_piece(self) -> bytes:
        """What has arrived, at least one byte; empty at the proper end.

        Raises ModelDied when the connection breaks before the end, UpstreamTimeout after too long a silence.
        """
        piece, self._begun = self._begun, b""
        while not piece and not self.is_over:
            assert self._connection is not None
            try:
                with TURNSTILE.away():
                    received = self._connection.sock.recv(RECEIVE_BYTES)
            except TimeoutError as exc:
                raise UpstreamTimeout(f"the model sent nothing for {READ_TIMEOUT_S:g} s") from exc
            except OSError as exc:
                self.broke(exc)
            else:
                piece = self.feed(received)
        if not piece and self._failed is not None:
            raise self._failed
        return piece

    def read_all(self) -> bytes:
        """The whole body; raises UpstreamInvalid beyond its bounds, else like `read_piece`."""
        pieces, size = [], 0
        deadline = time.monotonic() + WHOLE_BODY_S
        while piece := self.read_piece():
            if time.monotonic() > deadline:
                raise UpstreamInvalid(f"the model's answer did not come whole within {WHOLE_BODY_S:g} s")
            pieces.append(piece)
            size += len(piece)
            if size > MAX_BODY_BYTES:
                raise UpstreamInvalid(f"the model's answer is larger than {MAX_BODY_BYTES} bytes")
        return b"".join(pieces)

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
