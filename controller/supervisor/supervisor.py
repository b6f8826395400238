"""Leases, queues, stops and idle times of all models, and the one lock that guards their state."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager

from controller.errors import ModelBusy, OrchestrarError
from controller.metrics import Gauges, Metrics
from controller.readiness import Readiness
from controller.registry import ModelSpec
from controller.supervisor.changing import Changing
from controller.supervisor.clock import Clock, SystemClock
from controller.supervisor.ending import stop_all
from controller.supervisor.lifecycle import STOP_AGAIN_AFTER_S, Lifecycle
from controller.supervisor.model import RESTING, CancelToken, Lease, Slot, State
from controller.supervisor.plan import Plan
from controller.supervisor.pulling import Pull, is_pull
from controller.supervisor.starting import Backend
from controller.supervisor.table import Table
from controller.supervisor.turns import Turns, refuse_while_stopping
from controller.supervisor.view import ModelView, gauges_of, view_of

log = logging.getLogger(__name__)


class Supervisor:
    """One lock guards the state; no Docker or HTTP call is made while it is held.

    Callers never look first and start then: they `acquire` and get a lease, or an error that says why not.
    """

    def __init__(
        self,
        models: Mapping[str, ModelSpec],
        backend: Backend,
        probe: Callable[[int, str], Readiness],
        *,
        clock: Clock | None = None,
        stop_grace_s: int = 30,
        metrics: Metrics | None = None,
    ) -> None:
        self.metrics = metrics or Metrics()
        self._backend = backend
        self._clock = clock or SystemClock()
        self._stop_grace_s = stop_grace_s
        self._lock = threading.Lock()
        self._monitor_wakes = threading.Condition(self._lock)
        self._monitor_sleeps_until: float | None = None
        self._life = Lifecycle(
            backend,
            probe,
            self._clock,
            self._lock,
            slots=lambda: self._slots.values(),
            on_ready=self._monitor_wakes.notify_all,
            metrics=self.metrics,
        )
        self.metrics.show(self.gauges)
        self._turns = Turns(self._life, self._clock)
        self._slots = Table(self._lock, self._life.resting_state)
        self._slots.replace(models.values())
        self._changing = Changing(self._slots, self._life, self._clock, self._lock, stop_grace_s)

    def acquire(self, model_id: str, *, max_wait_s: float | None = None, token: CancelToken | None = None) -> Lease:
        """A lease on the ready model, started first where needed; blocks at most `max_wait_s` (default: the model's).

        At most `max_concurrency` leases are out; further callers queue, first come first served, up to `max_queue`.
        Raises Overloaded beyond that, StartFailed (or what else ended the start), ModelStopping, ModelPreparing or
        DeadlineExceeded when time is up, and Cancelled when the token was cancelled. The start goes on whoever leaves.
        """
        slot = self._slots[model_id]
        begun = self._clock.monotonic()
        deadline = begun + (slot.spec.max_wait_s if max_wait_s is None else max_wait_s)
        if token is not None:
            token.on_cancel(lambda: self._wake(slot))
        try:
            with self._lock:
                ready_at = self._turns.take(slot, begun, deadline, token)
                container, taken_at = slot.container, self._clock.monotonic()
        except OrchestrarError as exc:
            self.metrics.refused(model_id, exc.code)
            raise
        assert container is not None
        self.metrics.waited(model_id, taken_at - begun)
        return Lease(
            model_id,
            container,
            start_s=ready_at - begun,
            queue_s=taken_at - ready_at,
            release=lambda keep: self._release(slot, taken_at, keep),
        )

    def run(
        self, model_id: str, *, wait: bool, token: CancelToken | None = None, keep_alive_s: float | None = None
    ) -> ModelView:
        """Start the model and, with `wait`, return when it is ready; raises like `acquire`.

        One that is left alone after failures is tried at once.
        """
        with self._lock:
            self._slots[model_id].failures.forgive()
        if wait:
            self.acquire(model_id, token=token).release(keep_alive_s=keep_alive_s)
        else:
            with self._lock:
                slot = self._slots[model_id]
                refuse_while_stopping(slot)
                if slot.state in RESTING:
                    self._life.begin(slot)
                slot.start_wanted = slot.state is State.DRAINING or is_pull(slot.attempt)
        return self.view(model_id)

    def pull(self, model_id: str, *, token: CancelToken | None = None) -> Pull:
        """Make present all that a start needs, in the background, shared with whoever wants the same.

        What is here is not fetched again, and a model that runs has all. It goes on whoever leaves; a stop ends it.
        Raises ModelStopping.
        """
        slot = self._slots[model_id]
        if token is not None:
            token.on_cancel(lambda: self._wake(slot))
        with self._lock:
            refuse_while_stopping(slot)
            if slot.state in RESTING:
                self._life.begin(slot, only_prepares=True)
            return Pull(slot, self._clock, token)

    def expire(self, model_id: str) -> None:
        """Stop the model as soon as nobody uses it: when it is idle before this returns, else after its last lease."""
        slot = self._slots[model_id]
        with self._lock:
            slot.keep_alive_s = 0.0
        self._stop_if_due(slot)

    def stop(self, model_id: str) -> None:
        """Refuse new work, let what is in flight end within the grace period, stop, and verify that it is gone."""
        slot = self._slots[model_id]
        with self._closed_to_requests(slot):
            self._life.cancel(slot)
            self._life.retire(slot, drain_s=self._stop_grace_s)

    def change(self, models: Mapping[str, ModelSpec], *, remade: Collection[str]) -> None:
        """As `Changing.change`."""
        self._changing.change(models, remade=remade)
        with self._lock:
            self._monitor_wakes.notify_all()

    def drop(self, model_ids: Collection[str]) -> None:
        """As `Changing.drop`."""
        self._changing.drop(model_ids)

    def delete_files(self, model_id: str) -> int:
        """Remove the model's downloads and prepared volumes; returns bytes freed. ModelBusy unless it is at rest."""
        slot = self._slots[model_id]
        with self._closed_to_requests(slot):
            if slot.state not in RESTING:
                raise ModelBusy(f"{model_id} is {slot.state.value}; stop it first (POST /stop), then delete its files")
            try:
                return self._backend.delete_files(model_id)
            finally:
                self._life.rest(slot)

    def plan(self, model_id: str) -> Plan:
        """What a start of the model would come to now; nothing is done. Raises like the backend's `room`."""
        slot = self._slots[model_id]
        needed, room = self._backend.needs(model_id), self._life.admission.room()
        with self._lock:
            now = self._clock.monotonic()
            return Plan(
                model_id=model_id,
                state=slot.state,
                needed=needed,
                room=room,
                holders=tuple(self._life.admission.holders(now, without=slot)),
                placement=self._life.admission.placement(slot, needed, room, waited_s=0.0),
            )

    def view(self, model_id: str) -> ModelView:
        """What can be said of one model now."""
        ports = self._backend.ports()
        with self._lock:
            return view_of(self._slots[model_id], self._clock.monotonic(), ports[model_id])

    def snapshot(self) -> list[ModelView]:
        """What can be said of every model now, in the registry's order."""
        ports = self._backend.ports()
        with self._lock:
            now = self._clock.monotonic()
            return [view_of(slot, now, ports[slot.spec.id]) for slot in self._slots.values()]

    def gauges(self) -> dict[str, Gauges]:
        """What is so of each model now, for the metrics."""
        with self._lock:
            return {slot.spec.id: gauges_of(slot) for slot in self._slots.values()}

    def adopt(self, model_id: str | None = None) -> None:
        """Make memory follow Docker: adopt what runs, let go of what does not; one model, or all.

        Models in the middle of a start or stop are left to those. Raises a Docker error when Docker does not answer.
        """
        with self._lock:
            slots = [s for s in self._slots.values() if model_id in (None, s.spec.id)]
            epochs = {slot.spec.id: slot.epoch for slot in slots}
        containers = self._backend.find_all() if model_id is None else [self._backend.find(model_id)]
        # A running one wins over one that ended, whatever the order.
        found = {c.model_id: c for c in sorted(filter(None, containers), key=lambda c: c.running)}
        deaths = {slot.spec.id: self._life.death_of(slot, found.get(slot.spec.id)) for slot in slots}
        with self._lock:
            for slot in slots:
                if slot.epoch == epochs[slot.spec.id]:
                    self._life.reconcile(slot, found.get(slot.spec.id), deaths[slot.spec.id])

    def reap(self) -> None:
        """Stop every model whose idle deadline has passed; returns when they have stopped.

        One that cannot be stopped now is left as it is, and tried again a while later.
        """
        for slot in self._slots.values():
            self._stop_if_due(slot)

    def measure(self) -> None:
        """Sample CPU, memory and drift of the running models, for `view`. Docker takes about 2 s for it."""
        with self._lock:
            running = [s.container for s in self._slots.values() if s.container is not None and s.state is State.READY]
        usage = self._backend.usage([container.id for container in running])
        drifted = self._backend.drifted(running)
        for container in running:
            if (used := usage.get(container.id)) is not None:
                self._backend.observe(container.model_id, used.memory_bytes)
        with self._lock:
            for slot in self._slots.values():
                slot.usage = usage.get(slot.container.id) if slot.container else None
                slot.peak_bytes = max(slot.peak_bytes, slot.usage.memory_bytes if slot.usage else 0)
                slot.drifted = slot.spec.id in drifted
        for slot in self._slots.values():
            self._life.recount(slot)

    def rest_until_due(self, look_at: float) -> bool:
        """Wait until a model's idle deadline or `look_at` (monotonic); False when the supervisor is closing."""
        with self._lock:
            deadlines = [due for slot in self._slots.values() if (due := slot.idle_deadline()) is not None]
            due = min([look_at, *deadlines])
            wait_s = due - self._clock.monotonic()
            if wait_s > 0 and not self._life.is_closing:
                self._monitor_sleeps_until = due
                self._clock.wait(self._monitor_wakes, wait_s)
                self._monitor_sleeps_until = None
            return not self._life.is_closing

    def begin_to_end(self) -> None:
        """The controller has been told to end: preparations, which may take longer than any grace, end now.

        What waits for one gets Unavailable; all else goes on until `close`. Takes no lock: signal handlers may call it.
        """
        self._life.is_ending = True

    def settle(self, within_s: float) -> None:
        """After `close`: wait until starts and preparations have let go of what they hold, or the time is up."""
        deadline = self._clock.monotonic() + within_s
        with self._lock:
            for slot in self._slots.values():
                while slot.attempt is not None and (left_s := deadline - self._clock.monotonic()) > 0:
                    self._clock.wait(slot.changed, left_s)

    def stop_all(self, within_s: float) -> None:
        """After `close`: stop every model, for a controller that does not leave them running."""
        stop_all(self._backend, within_s)

    def close(self) -> None:
        """Let every waiter and thread go; the models themselves stay as they are. For good."""
        self._life.close()
        with self._lock:
            self._monitor_wakes.notify_all()
            for slot in self._slots.values():
                slot.changed.notify_all()

    def _stop_if_due(self, slot: Slot) -> None:
        with self._lock:
            deadline = slot.idle_deadline()
            if deadline is None or deadline > self._clock.monotonic():
                return
            slot.stop_not_before = self._clock.monotonic() + STOP_AGAIN_AFTER_S
            self._life.claim(slot)
        log.info("%s: idle, stopping it", slot.spec.id)
        try:
            self._life.retire(slot, drain_s=0, is_claimed=True)
        except OrchestrarError as exc:
            log.warning("%s: could not be stopped, trying again later: %s", slot.spec.id, exc.message)

    @contextmanager
    def _closed_to_requests(self, slot: Slot) -> Iterator[None]:
        """Refuse new leases, and whoever wants the same, within the block."""
        with self._lock:
            refuse_while_stopping(slot)
            slot.stop_requested = True
        try:
            yield
        finally:
            with self._lock:
                slot.stop_requested = False
                slot.changed.notify_all()

    def _release(self, slot: Slot, taken_at: float, keep_alive_s: float | None) -> None:
        with self._lock:
            slot.leases -= 1
            slot.used_at = self._clock.monotonic()
            served_s = slot.used_at - taken_at
            slot.service_s = served_s if slot.service_s is None else slot.service_s + 0.2 * (served_s - slot.service_s)
            if not slot.leases and not slot.queue:
                self._life.admission.nudge()
            if keep_alive_s is not None:
                slot.keep_alive_s = keep_alive_s
            slot.changed.notify_all()
            deadline, sleeps_until = slot.idle_deadline(), self._monitor_sleeps_until
            # As a rule it sleeps no longer than this anyway, and waking it would cost every request.
            if deadline is not None and sleeps_until is not None and deadline < sleeps_until:
                self._monitor_wakes.notify_all()

    def _wake(self, slot: Slot) -> None:
        with self._lock:
            slot.changed.notify_all()
