"""Stops models that have been idle for long enough, and knows when the next one will have been."""

from __future__ import annotations

import logging
import math
import threading

from controller.errors import OrchestrarError
from controller.supervisor.backend import Backend
from controller.supervisor.clock import Clock
from controller.supervisor.lifecycle import STOP_AGAIN_AFTER_S, Lifecycle
from controller.supervisor.slot import Slot, SlotTable

log = logging.getLogger(__name__)


class IdleStopper:
    """Idle stops of all models; `lock` is the supervisor's."""

    def __init__(self, slots: SlotTable, life: Lifecycle, backend: Backend, clock: Clock, lock: threading.Lock) -> None:
        self._slots = slots
        self._life = life
        self._backend = backend
        self._clock = clock
        self._lock = lock
        self._wakes = threading.Condition(lock)
        # Monotonic; in the past while the thread does not sleep.
        self.sleeps_until = -math.inf

    def rest_until_due(self, look_at: float) -> bool:
        """Do the work of `Supervisor.rest_until_due`."""
        with self._lock:
            deadlines = [due for slot in self._slots.values() if (due := slot.idle_deadline()) is not None]
            due = min([look_at, *deadlines])
            wait_s = due - self._clock.monotonic()
            if wait_s > 0 and not self._life.is_closing:
                self.sleeps_until = due
                self._clock.wait(self._wakes, wait_s)
                self.sleeps_until = -math.inf
            return not self._life.is_closing

    def wake(self) -> None:
        """Look at the deadlines again: they may have changed. With the lock held."""
        self._wakes.notify_all()

    def stop_if_due(self, slot: Slot) -> None:
        """Stop the model if it has been idle for long enough; returns when it has stopped.

        A model that cannot be stopped now is left as it is, and tried again later.
        """
        container = slot.container
        if container is None or not slot.is_idle(self._clock.monotonic()):
            return
        try:
            # Find out that Docker hangs before requests have to wait for the end of the stop.
            self._backend.inspect(container.id)
            self._stop_now_if_due(slot)
        except OrchestrarError as exc:
            log.warning("%s: could not be stopped, trying again later: %s", slot.spec.id, exc.message)
            with self._lock:
                slot.postpone_stop(self._clock.monotonic() + STOP_AGAIN_AFTER_S)

    def _stop_now_if_due(self, slot: Slot) -> None:
        with self._lock:
            if not slot.claim_if_idle(self._clock.monotonic()):
                return
        log.info("%s: idle, stopping it", slot.spec.id)
        self._life.retire(slot, drain_s=0, is_claimed=True, again_after_s=STOP_AGAIN_AFTER_S)
