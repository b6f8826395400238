"""A request's bytes, from the first until a thread can take it without waiting for its client; no socket, no clock."""

from __future__ import annotations

from enum import Enum

MAX_HEAD_BYTES = 64 * 1024
# A body up to here is waited for with its head; whoever sends more is waited for by a thread (`connection.Unreader`).
GATHERED_BODY_BYTES = 64 * 1024
# The whole head, however many pieces it comes in.
HEAD_S = 10.0
# A body: nothing for so long, or more time in all than so long and what has come takes at this rate.
SILENCE_S = 10.0
BODY_S = 30.0
SLOWEST_BYTES_PER_S = 32 * 1024


class Stage(Enum):
    """How far a request has come."""

    MORE = "there is more to wait for"
    READY = "a thread can take it"
    TOO_LONG = "its head has no end"
    ENDED = "its client has left"


def body_deadline(begun_at: float, heard_at: float, received_bytes: int) -> float:
    """When the wait for more of a body ends (monotonic), which began and was heard of last at these times."""
    return min(heard_at + SILENCE_S, begun_at + BODY_S + received_bytes / SLOWEST_BYTES_PER_S)


class RequestGatherer:
    """What has come of one request; its time counts from `now`."""

    def __init__(self, now: float) -> None:
        self.received = b""
        self.deadline = now + HEAD_S
        self._body_at: int | None = None
        self._body_begun_at = now
        self._needed_bytes = 0

    @property
    def is_in_head(self) -> bool:
        """Whether the head is not all there yet."""
        return self._body_at is None

    def add(self, data: bytes, now: float) -> Stage:
        """Take in what came."""
        if not self.received:
            # Blank lines before a request are no part of it (RFC 9112, 2.2).
            data = data.lstrip(b"\r\n") if data[:1] in b"\r\n" else data
        searched = max(len(self.received) - 3, 0)
        self.received += data
        if self._body_at is None:
            end = self.received.find(b"\r\n\r\n", searched)
            if end < 0:
                return Stage.TOO_LONG if len(self.received) > MAX_HEAD_BYTES else Stage.MORE
            self._body_at, self._body_begun_at = end + 4, now
            self._needed_bytes = self._body_at + _gathered_length(self.received[: end + 2])
        if len(self.received) >= self._needed_bytes:
            return Stage.READY
        self.deadline = body_deadline(self._body_begun_at, now, len(self.received) - self._body_at)
        return Stage.MORE


def _gathered_length(head: bytes) -> int:
    """How much of the body to wait for here. What the head means is for the server to say: this reads no more of it
    than tells whether there is a short body to wait for."""
    fields = head.lower()
    if b"\r\nexpect:" in fields:  # it is sent when the server has said so
        return 0
    _, _, rest = fields.partition(b"\r\ncontent-length:")
    length = rest[: rest.find(b"\r\n")].strip()
    if not length.isdigit() or len(length) > 9 or int(length) > GATHERED_BODY_BYTES:
        return 0
    return int(length)
