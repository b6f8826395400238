"""One caller's view of a preparation that goes on in the background."""

from __future__ import annotations

import copy
from collections.abc import Iterator

from controller.errors import Cancelled
from controller.supervisor.backend import PreparationProgress
from controller.supervisor.clock import Clock
from controller.supervisor.leases import CancelToken
from controller.supervisor.slot import Slot

# A caller who hears nothing for longer cannot tell it from a fault.
SILENCE_S = 2.0


class Pull(Iterator[PreparationProgress | None]):
    """What there is to tell, one after the other, each when it happens; None after a while without news.

    It ends when all is here that a start needs, and raises what kept that from being so, or Cancelled when the token
    was cancelled. Made with the supervisor's lock held; not thread-safe.
    """

    def __init__(self, slot: Slot, clock: Clock, token: CancelToken | None) -> None:
        self._slot = slot
        self._attempt = slot.attempt
        self._clock = clock
        self._token = token
        self._told: PreparationProgress | None = None

    @property
    def is_over(self) -> bool:
        """Whether all is here, or getting it has failed."""
        return self._attempt is None or self._attempt.is_over or self._attempt.is_prepared

    def __next__(self) -> PreparationProgress | None:
        deadline = self._clock.monotonic() + SILENCE_S
        with self._slot.changed:
            while True:
                if self._token is not None and self._token.cancelled:
                    raise Cancelled("the client has left")
                if self.is_over:
                    self._end()
                if self._slot.progress not in (None, self._told):
                    self._told = self._slot.progress
                    return self._told
                left_s = deadline - self._clock.monotonic()
                if left_s <= 0:
                    return None
                self._clock.wait(self._slot.changed, left_s)

    def _end(self) -> None:
        # The start that it was part of may fail after that, which is no failure of this.
        if self._attempt is not None and self._attempt.error is not None and not self._attempt.is_prepared:
            raise copy.copy(self._attempt.error)
        raise StopIteration
