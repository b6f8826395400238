"""The body of a streamed answer, as the server iterates it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from controller.errors import UpstreamError
from controller.proxy.forwarding import Pieces


class EventStream(Iterator[bytes]):
    """The body of a streamed answer: pieces as they arrive; one error event if it breaks, and nothing after it.

    A class, not a generator: a generator that was never started would not run its `finally` and would leak the lease.
    `carry`, if given, takes everything after the first piece to the client without this iteration.
    """

    def __init__(
        self,
        pieces: Pieces,
        error_event: Callable[[UpstreamError], bytes],
        on_close: Callable[[], None],
        carry: Callable[[], None] | None = None,
    ) -> None:
        self._pieces = pieces
        self._error_event = error_event
        self._on_close = on_close
        self._carry = carry
        self._has_first_piece = False
        self._is_closed = False

    def __next__(self) -> bytes:
        if self._is_closed:
            raise StopIteration
        try:
            if self._has_first_piece and self._carry is not None:
                self._carry()
            piece = self._pieces.read_piece()
        except UpstreamError as exc:
            self.close()
            return self._error_event(exc)
        if not piece:
            self.close()
            raise StopIteration
        self._has_first_piece = True
        return piece

    def close(self) -> None:
        """End the answer and give everything back. Idempotent."""
        if not self._is_closed:
            self._is_closed = True
            self._pieces.close()
            self._on_close()
