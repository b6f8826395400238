"""The body of a streamed answer, as the server iterates it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from controller.errors import UpstreamError
from controller.proxy.forwarding import Pieces


class EventStream(Iterator[bytes]):
    """The body of a streamed answer: pieces as they arrive, one error event when it breaks, never more after it.

    A class, not a generator: one that was never begun would not run its `finally` and would leak the lease.
    `carry`, where there is one, takes everything after the first piece to the client past the iteration.
    """

    def __init__(
        self,
        exchange: Pieces,
        error_event: Callable[[UpstreamError], bytes],
        on_close: Callable[[], None],
        carry: Callable[[], None] | None = None,
    ) -> None:
        self._exchange = exchange
        self._exchange = exchange
        self._error_event = error_event
        self._on_close = on_close
        self._carry = carry
        self._begun = False
        self._ended = False

    def __next__(self) -> bytes:
        if self._ended:
            raise StopIteration
        try:
            if self._begun and self._carry is not None:
                self._carry()
            piece = self._exchange.read_piece()
        except UpstreamError as exc:
            self.close()
            return self._error_event(exc)
        if not piece:
            self.close()
            raise StopIteration
        self._begun = True
        return piece

    def close(self) -> None:
        """End the upstream and give everything back. Idempotent."""
        if not self._ended:
            self._ended = True
            self._exchange.close()
            self._on_close()
