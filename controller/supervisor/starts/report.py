"""A start's way to tell its model's record where it is, and to ask whether it may go on."""

from __future__ import annotations

import logging
import threading
from typing import Protocol

from controller.docker.container import Container
from controller.supervisor.backend import PreparationProgress
from controller.supervisor.clock import Clock
from controller.supervisor.memory.admission import Admission
from controller.supervisor.slot import Attempt, Slot, State

log = logging.getLogger(__name__)


class House(Protocol):
    """What the starts of all models have in common."""

    admission: Admission
    # Preparations end, and starts are left to themselves.
    is_ending: bool
    is_closing: bool


class Report:
    """The `starting.Reporter` of one attempt; `lock` is the supervisor's."""

    def __init__(self, house: House, lock: threading.Lock, clock: Clock, slot: Slot, attempt: Attempt) -> None:
        self._house = house
        self._lock = lock
        self._clock = clock
        self._slot = slot
        self._attempt = attempt

    @property
    def adopts(self) -> bool:
        """Whether the model was found running: it has its place, whether there is room or not."""
        return self._attempt.adopts

    @property
    def is_counted(self) -> bool:
        """Whether it holds a part of the memory budget, be it only because nobody can tell whether all of it ended."""
        return self._slot.holds is not None

    def nothing_runs(self) -> None:
        """Docker has told so: whatever was counted for the model is free."""
        with self._lock:
            self._slot.holds = None
            self._house.admission.nudge()

    def admit(self) -> None:
        """Wait for the model's part of the memory budget; raises like `Admission.admit`."""
        self._house.admission.admit(self._slot, self._attempt, self.closing)

    def entered(self, state: State) -> None:
        with self._lock:
            # What is about to start has all that it needs.
            self._attempt.is_prepared = state is State.STARTING
            self._slot.enter(state)

    def progressed(self, progress: PreparationProgress) -> None:
        with self._lock:
            before, self._slot.progress = self._slot.progress, progress
            is_next = before is None or before.phase != progress.phase
            if is_next:
                self._slot.phase_began_at = self._clock.monotonic()
            self._slot.changed.notify_all()
        if is_next:
            log.info("%s: %s", self._slot.spec.id, progress.phase)

    def runs(self, container: Container) -> None:
        """From now on what it takes is no longer free; one that somebody else has started has its place as it is."""
        self._attempt.container_id = container.id
        if not self.is_counted:
            self._house.admission.hold(self._slot, container.memory_limit_bytes)

    def used(self, peak_bytes: int) -> None:
        """The largest sample of its working set so far."""
        self._attempt.peak_bytes = peak_bytes

    def cancelled(self) -> bool:
        return self._attempt.cancelled

    def closing(self) -> bool:
        return self._house.is_closing

    def ending(self) -> bool:
        return self._house.is_ending
