"""A start's way to tell its model's record where it is, and to ask whether it may go on."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from controller.preparation import PreparationProgress
from controller.supervisor.admission import Admission
from controller.supervisor.model import Attempt, Slot, State

log = logging.getLogger(__name__)


class Report:
    """The `starting.Reporter` of one attempt; `lock` is the supervisor's."""

    def __init__(
        self,
        lock: threading.Lock,
        slot: Slot,
        attempt: Attempt,
        admission: Admission,
        closing: Callable[[], bool],
        ending: Callable[[], bool],
    ) -> None:
        self._lock = lock
        self._slot = slot
        self._attempt = attempt
        self._admission = admission
        self.closing = closing
        self.ending = ending

    @property
    def adopts(self) -> bool:
        """Whether the model was found running: it has its place, whether there is room or not."""
        return self._attempt.adopts

    def admit(self) -> None:
        """Wait for the model's part of the memory budget; raises like `Admission.admit`."""
        if self._slot.holds is None:
            self._admission.admit(self._slot, self._attempt, self.closing)

    def entered(self, state: State) -> None:
        with self._lock:
            # What is about to start has all that it needs.
            self._attempt.is_prepared = state is State.STARTING
            self._slot.enter(state)

    def progressed(self, progress: PreparationProgress) -> None:
        with self._lock:
            before, self._slot.progress = self._slot.progress, progress
            self._slot.changed.notify_all()
        if before is None or before.phase != progress.phase:
            log.info("%s: %s", self._slot.spec.id, progress.phase)

    def cancelled(self) -> bool:
        return self._attempt.cancelled
