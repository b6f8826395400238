"""Starts models with `preload` ahead of requests: with the controller, and again when Docker was away."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from controller.errors import DockerError, DockerUnavailable
from controller.supervisor.clock import Clock
from controller.supervisor.lifecycle import Lifecycle
from controller.supervisor.slot import Slot, SlotTable
from controller.supervisor.starts.attempt import Attempt
from controller.supervisor.states import RESTING, State

log = logging.getLogger(__name__)


class Preloader:
    """The models that still have to be started; each gets one try, and another one only if Docker failed that.

    Every method runs with the supervisor's lock held.
    """

    def __init__(self, slots: SlotTable, life: Lifecycle, clock: Clock) -> None:
        self._slots = slots
        self._life = life
        self._clock = clock
        self._pending: dict[Slot, Attempt | None] = {}

    def want(self, slots: Iterable[Slot]) -> None:
        """Plan a start of each of these models that has `preload`."""
        for slot in slots:
            if slot.spec.preload:
                self._pending[slot] = None

    def want_lost(self) -> None:
        """Plan one of each model that ended without us, as they do if Docker itself ends."""
        self.want(slot for slot in self._slots.values() if slot.was_lost and slot.state in RESTING)

    def forget(self, slot: Slot) -> None:
        """Plan no start of this model: a user wants it stopped."""
        self._pending.pop(slot, None)

    def work(self) -> None:
        """Begin the planned starts that can begin; call it after a look at Docker."""
        for slot, attempt in list(self._pending.items()):
            if self._needs_no_start(slot, attempt):
                self.forget(slot)
            elif self._may_begin(slot) and self._life.begin(slot, preloads=True):
                log.info("%s: starting it ahead of its first request", slot.spec.id)
                self._pending[slot] = slot.attempt

    def _may_begin(self, slot: Slot) -> bool:
        is_left_alone = slot.stop_requested or slot.failures.retry_in_s(self._clock.monotonic()) > 0
        return not is_left_alone and not self._life.is_ending

    def _needs_no_start(self, slot: Slot, attempt: Attempt | None) -> bool:
        """Return whether the model serves, was removed, or had its try."""
        is_known = slot.spec.id in self._slots and self._slots[slot.spec.id] is slot
        if not is_known or not slot.spec.preload or slot.state in (State.READY, State.PAUSED):
            return True
        if attempt is None or not attempt.is_over:
            return False
        return not isinstance(attempt.error, DockerError | DockerUnavailable)
