"""Memory follows Docker: what runs is adopted, what ended is let go of, and how it ended is told."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from controller.docker.container import Container
from controller.errors import ModelDied
from controller.supervisor.backend import Backend
from controller.supervisor.clock import Clock
from controller.supervisor.failures.card import failure_card, with_retry_at
from controller.supervisor.failures.cause import death_of
from controller.supervisor.lifecycle import Lifecycle
from controller.supervisor.memory.measuring import UsageMeter
from controller.supervisor.metrics import Metrics
from controller.supervisor.slot import Slot
from controller.supervisor.states import Finding
from controller.supervisor.table import SlotTable

log = logging.getLogger(__name__)


class Reconciler:
    """One for all models; `lock` is the supervisor's. What it finds changed goes through the `Lifecycle`."""

    def __init__(
        self,
        slots: SlotTable,
        life: Lifecycle,
        measuring: UsageMeter,
        backend: Backend,
        clock: Clock,
        lock: threading.Lock,
        metrics: Metrics,
        jitter: Callable[[], float],
    ) -> None:
        self._slots = slots
        self._life = life
        self._measuring = measuring
        self._backend = backend
        self._clock = clock
        self._lock = lock
        self._metrics = metrics
        self._jitter = jitter

    def adopt(self, model_id: str | None) -> None:
        """As `Supervisor.adopt`."""
        with self._lock:
            slots = [slot for slot in self._slots.values() if model_id in (None, slot.spec.id)]
            epochs = {slot.spec.id: slot.epoch for slot in slots}
        containers = self._backend.find_all() if model_id is None else [self._backend.find(model_id)]
        # A running one wins over one that ended, whatever the order.
        found = {c.model_id: c for c in sorted(filter(None, containers), key=lambda c: c.running)}
        deaths = {slot.spec.id: self._death_of(slot, found.get(slot.spec.id)) for slot in slots}
        with self._lock:
            for slot in slots:
                if slot.epoch == epochs[slot.spec.id]:
                    self._reconcile(slot, found.get(slot.spec.id), deaths[slot.spec.id])
        for slot in slots:
            # A model found paused takes its memory; one that is adopted is counted by its start.
            if slot.holds is None:
                self._measuring.recount(slot)

    def end(self, model_id: str, container_id: str, why: str) -> None:
        """Kill a container that is of no use any more; that is its model's failure, told by `why`, and nobody's stop.

        Raises a Docker error.
        """
        slot = self._slots[model_id]
        with self._lock:
            slot.blame_container(container_id, why)
        self._backend.stop(container_id, grace_s=0)
        self.adopt(model_id)

    def _reconcile(self, slot: Slot, container: Container | None, death: ModelDied | None) -> None:
        """Make the record follow what Docker says of its container; `death` is why that one ended on its own."""
        now = self._clock.monotonic()
        finding = slot.follow(container, death, now=now, jitter=self._jitter)
        if finding is Finding.PAUSED and container is not None:
            log.warning("%s: its container is paused by hand (`docker unpause %s`)", slot.spec.id, container.name)
        elif finding is Finding.RUNS:
            log.info("%s: adopting its running container", slot.spec.id)
            self._life.begin(slot, adopts=True)
        elif finding is Finding.FREED:
            self._life.admission.nudge()
        elif finding is Finding.ENDED:
            log.warning("%s: %s", slot.spec.id, death.message if death else "its container was stopped by hand")
            if death is not None:
                self._metrics.died(slot.spec.id)
                death.details = with_retry_at(death.details, slot.failures.retry_in_s(now))
            self._life.admission.nudge()

    def _death_of(self, slot: Slot, found: Container | None) -> ModelDied | None:
        """Why the model's container, as Docker shows it now, ended on its own; None while it runs, or by a hand.

        Asks Docker for its log and waits for its events; called without the lock.
        """
        if found is None or found.running or slot.container is None or slot.container.id != found.id:
            return None
        peak_bytes, blame = slot.peak_bytes or None, slot.blame
        if blame is not None and blame[0] == found.id:
            card = failure_card("serving", found, log=self._backend.logs(found), peak_bytes=peak_bytes)
            return ModelDied(f"{slot.spec.id} {blame[1]}", details=card.as_details())
        return death_of(slot.spec.id, found, self._backend.ending(found.id), self._backend.logs, peak_bytes)
