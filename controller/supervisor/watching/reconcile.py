"""Makes the records follow Docker: adopts running containers, and says why others ended."""

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
from controller.supervisor.slot import Slot, SlotTable
from controller.supervisor.states import Finding

log = logging.getLogger(__name__)


class Reconciler:
    """Reconciles all models; `lock` is the supervisor's. Adoptions go through the `Lifecycle`."""

    def __init__(
        self,
        slots: SlotTable,
        life: Lifecycle,
        usage_meter: UsageMeter,
        backend: Backend,
        clock: Clock,
        lock: threading.Lock,
        metrics: Metrics,
        jitter: Callable[[], float],
    ) -> None:
        self._slots = slots
        self._life = life
        self._usage_meter = usage_meter
        self._backend = backend
        self._clock = clock
        self._lock = lock
        self._metrics = metrics
        self._jitter = jitter

    def adopt(self, model_id: str | None) -> None:
        """Do the work of `Supervisor.adopt`."""
        with self._lock:
            slots = [slot for slot in self._slots.values() if model_id in (None, slot.spec.id)]
            epochs = {slot.spec.id: slot.epoch for slot in slots}
        containers = self._backend.find_all() if model_id is None else [self._backend.find(model_id)]
        # A running container wins over one that has ended, whatever the order.
        by_model = {c.model_id: c for c in sorted(filter(None, containers), key=lambda c: c.running)}
        deaths = {slot.spec.id: self._death_of(slot, by_model.get(slot.spec.id)) for slot in slots}
        with self._lock:
            for slot in slots:
                if slot.epoch == epochs[slot.spec.id]:
                    self._reconcile(slot, by_model.get(slot.spec.id), deaths[slot.spec.id])
        for slot in slots:
            # A model found paused takes memory; one that is adopted is counted by its start.
            if slot.holds is None:
                self._usage_meter.recount(slot)

    def end(self, model_id: str, container_id: str, reason: str) -> None:
        """Kill a container that does not work any more; that counts as the model's failure, not as a stop.

        `reason` says what is wrong with it ("hung: …"). Raises a Docker error.
        """
        slot = self._slots[model_id]
        with self._lock:
            slot.blame_container(container_id, reason)
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
        elif finding is Finding.FREE:
            self._life.admission.nudge()
        elif finding is Finding.END:
            log.warning("%s: %s", slot.spec.id, death.message if death else "its container was stopped by hand")
            if death is not None:
                self._metrics.count_death(slot.spec.id)
                death.details = with_retry_at(death.details, slot.failures.retry_in_s(now))
            self._life.admission.nudge()

    def _death_of(self, slot: Slot, container: Container | None) -> ModelDied | None:
        """Return why the model's container ended on its own; None while it runs, or if a user stopped it.

        Asks Docker for the log and waits for its events; called without the lock.
        """
        if container is None or container.running or slot.container is None or slot.container.id != container.id:
            return None
        peak_bytes, blame = slot.peak_bytes or None, slot.blame
        if blame is not None and blame[0] == container.id:
            card = failure_card("serving", container, log=self._backend.logs(container), peak_bytes=peak_bytes)
            return ModelDied(f"{slot.spec.id} {blame[1]}", details=card.as_details())
        return death_of(slot.spec.id, container, self._backend.ending(container.id), self._backend.logs, peak_bytes)
