"""A request's bytes, from the first one until a thread need not wait for its client; no socket, no clock."""

from __future__ import annotations

from enum import Enum

from controller.server.slow_clients import BODY_S, HEAD_S, SILENCE_S, SLOWEST_BYTES_PER_S

MAX_HEAD_BYTES = 64 * 1024
# A body of at most this size is awaited with its head. A thread awaits a longer one (`client_connection.Unreader`).
GATHERED_BODY_BYTES = 64 * 1024


class Stage(Enum):
    """How much of a request has arrived."""

    MORE = "more has to arrive"
    READY = "a thread can take it"
    TOO_LONG = "its head has no end"
    CLOSED = "its client has closed the connection"


def body_deadline(began_at: float, last_byte_at: float, received_bytes: int) -> float:
    """Return when the wait for more of a body ends (monotonic), from when it began and when the last byte arrived."""
    return min(last_byte_at + SILENCE_S, began_at + BODY_S + received_bytes / SLOWEST_BYTES_PER_S)


class RequestGatherer:
    """What has arrived of one request; its time counts from `now`."""

    def __init__(self, now: float) -> None:
        self.data = b""
        self.deadline = now + HEAD_S
        self._body_at: int | None = None
        self._body_began_at = now
        self._needed_bytes = 0

    @property
    def is_in_head(self) -> bool:
        """Return whether the end of the head is still missing."""
        return self._body_at is None

    def add(self, piece: bytes, now: float) -> Stage:
        """Add what has arrived, and return how far the request is."""
        if not self.data:
            # Blank lines before a request are not part of it (RFC 9112, 2.2).
            piece = piece.lstrip(b"\r\n") if piece[:1] in b"\r\n" else piece
        search_from = max(len(self.data) - 3, 0)
        self.data += piece
        if self._body_at is None:
            end = self.data.find(b"\r\n\r\n", search_from)
            if end < 0:
                return Stage.TOO_LONG if len(self.data) > MAX_HEAD_BYTES else Stage.MORE
            self._body_at, self._body_began_at = end + 4, now
            self._needed_bytes = self._body_at + _gathered_length(self.data[: end + 2])
        if len(self.data) >= self._needed_bytes:
            return Stage.READY
        self.deadline = body_deadline(self._body_began_at, now, len(self.data) - self._body_at)
        return Stage.MORE


def _gathered_length(head: bytes) -> int:
    """Return how much of the body to await here.

    gunicorn decides what the head means: this reads only enough of it to know whether a short body follows.
    """
    fields = head.lower()
    if b"\r\nexpect:" in fields:  # the client sends it when the server has answered that
        return 0
    _, _, rest = fields.partition(b"\r\ncontent-length:")
    length = rest[: rest.find(b"\r\n")].strip()
    if not length.isdigit() or len(length) > 9 or int(length) > GATHERED_BODY_BYTES:
        return 0
    return int(length)
