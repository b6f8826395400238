"""How a start notes its progress in its model's record, and asks whether it may go on."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from controller.docker.container import Container
from controller.supervisor.backend import PreparationProgress
from controller.supervisor.clock import Clock
from controller.supervisor.memory.admission import Admission
from controller.supervisor.slot import Slot
from controller.supervisor.starts.attempt import Attempt

log = logging.getLogger(__name__)


class Report:
    """The `starter.Reporter` of one attempt; `lock` is the supervisor's."""

    def __init__(
        self,
        admission: Admission,
        lock: threading.Lock,
        clock: Clock,
        slot: Slot,
        attempt: Attempt,
        *,
        decide: Callable[[], None],
        is_ending: Callable[[], bool],
        is_closing: Callable[[], bool],
    ) -> None:
        self._admission = admission
        self._lock = lock
        self._clock = clock
        self._slot = slot
        self._attempt = attempt
        self.decides = decide
        self.is_ending = is_ending
        self.is_closing = is_closing

    @property
    def adopts(self) -> bool:
        """Return whether the container was found running: it has its place, whether there is room or not."""
        return self._attempt.adopts

    @property
    def is_counted(self) -> bool:
        """Return whether the model holds a part of the memory budget, if only because something of it may run."""
        return self._slot.holds is not None

    def nothing_runs(self) -> None:
        """Free what was counted for the model: Docker says that nothing runs."""
        with self._lock:
            self._slot.count_nothing()
            self._admission.nudge()

    def admit(self) -> None:
        """Wait for the model's part of the memory budget; raises like `Admission.admit`."""
        self._admission.admit(self._slot, self._attempt, self.is_closing)

    def prepares(self) -> None:
        """Note that the model's files are made."""
        with self._lock:
            self._slot.attempt_prepares()

    def comes_up(self) -> None:
        """Note that there is a container, or all that one needs."""
        with self._lock:
            self._slot.attempt_comes_up()

    def progresses(self, progress: PreparationProgress) -> None:
        """Note how far the preparation is."""
        with self._lock:
            is_new = self._slot.attempt_progresses(progress, self._clock.monotonic())
        if is_new:
            log.info("%s: %s", self._slot.spec.id, progress.phase)

    def runs(self, container: Container) -> None:
        """Count what the container takes from now on; one that another process started has its place as it is."""
        self._attempt.runs_in(container.id)
        if not self.is_counted:
            self._admission.hold(self._slot, container.memory_limit_bytes)

    def sample(self, peak_bytes: int) -> None:
        """Note the largest sample of the container's working set so far."""
        self._attempt.sample(peak_bytes)

    def is_cancelled(self) -> bool:
        """Return whether the start has to end."""
        return self._attempt.cancelled
