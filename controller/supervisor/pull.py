"""The progress of a preparation in the background, as one caller reads it."""

from __future__ import annotations

import copy
from collections.abc import Iterator

from controller.errors import Cancelled
from controller.supervisor.backend import PreparationProgress
from controller.supervisor.clock import Clock
from controller.supervisor.leases import CancelToken
from controller.supervisor.slot import Slot

# A caller cannot tell a longer silence from a fault.
SILENCE_S = 2.0


class Pull(Iterator[PreparationProgress | None]):
    """An iterator over the progress of a preparation, each step as it happens; None after a while without news.

    It ends when all is present that a start needs, and raises the error that prevented it, or Cancelled if the token
    was cancelled. Create it with the supervisor's lock held; not thread-safe.
    """

    def __init__(self, slot: Slot, clock: Clock, token: CancelToken | None) -> None:
        self._slot = slot
        self._attempt = slot.attempt
        self._clock = clock
        self._token = token
        self._last: PreparationProgress | None = None

    @property
    def is_over(self) -> bool:
        """Return whether all is present, or the preparation has failed."""
        return self._attempt is None or self._attempt.is_over or self._attempt.is_prepared

    def __next__(self) -> PreparationProgress | None:
        deadline = self._clock.monotonic() + SILENCE_S
        with self._slot.on_change:
            while True:
                if self._token is not None and self._token.cancelled:
                    raise Cancelled("the client has left")
                if self.is_over:
                    self._end()
                if self._slot.progress not in (None, self._last):
                    self._last = self._slot.progress
                    return self._last
                left_s = deadline - self._clock.monotonic()
                if left_s <= 0:
                    return None
                self._clock.wait(self._slot.on_change, left_s)

    def _end(self) -> None:
        # The start that it was part of may fail after that, which is no failure of the pull.
        if self._attempt is not None and self._attempt.error is not None and not self._attempt.is_prepared:
            raise copy.copy(self._attempt.error)
        raise StopIteration
