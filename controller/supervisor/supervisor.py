"""Leases, queues and stops of all models, and the one lock that guards their state."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager

from controller.errors import ModelBusy, ModelNotFound, OrchestrarError
from controller.registry import ModelSpec
from controller.supervisor.backend import Backend, Readiness
from controller.supervisor.clock import Clock, SystemClock
from controller.supervisor.leases import CancelToken, Lease, LeaseQueue
from controller.supervisor.lifecycle import Lifecycle
from controller.supervisor.memory.measuring import UsageMeter
from controller.supervisor.memory.plan import Plan
from controller.supervisor.metrics import Gauges, Metrics
from controller.supervisor.policies.config_change import ConfigChange
from controller.supervisor.policies.idle_stop import IdleStopper
from controller.supervisor.policies.preload import Preloader
from controller.supervisor.pull import Pull
from controller.supervisor.refusals import refuse_while_stopping
from controller.supervisor.shutdown import stop_all
from controller.supervisor.slot import Slot
from controller.supervisor.table import SlotTable
from controller.supervisor.view import ModelView, gauges_of, view_of
from controller.supervisor.watching.reconcile import Reconciler


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
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.metrics = metrics or Metrics()
        self._backend = backend
        self._clock = clock or SystemClock()
        self._stop_grace_s = stop_grace_s
        self._lock = threading.Lock()
        self._life = Lifecycle(
            backend,
            probe,
            self._clock,
            self._lock,
            slots=lambda: self._slots.values(),
            on_ready=lambda: self._idling.wake(),
            metrics=self.metrics,
            jitter=jitter,
        )
        self.metrics.show(self.gauges)
        self._turns = LeaseQueue(self._life, self._clock)
        self._slots = SlotTable(self._lock, self._life.resting_state)
        self._slots.replace(models.values())
        self._idling = IdleStopper(self._slots, self._life, backend, self._clock, self._lock)
        self._measuring = UsageMeter(self._slots, self._life.admission, backend, self._lock)
        self._reconciling = Reconciler(
            self._slots, self._life, self._measuring, backend, self._clock, self._lock, self.metrics, jitter
        )
        self._preloading = Preloader(self._slots, self._life, self._clock)
        self._preloading.want(self._slots.values())
        self._changing = ConfigChange(self._slots, self._life, self._clock, self._lock, stop_grace_s)

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
            left_s=deadline - taken_at,
            release=lambda keep: self._release(slot, taken_at, keep),
        )

    def run(
        self,
        model_id: str,
        *,
        wait: bool,
        max_wait_s: float | None = None,
        token: CancelToken | None = None,
        keep_alive_s: float | None = None,
    ) -> ModelView:
        """Start the model and, with `wait`, return when it is ready; waits and raises like `acquire`.

        One that is left alone after failures is tried at once.
        """
        with self._lock:
            self._slots[model_id].forgive()
        if wait:
            self.acquire(model_id, max_wait_s=max_wait_s, token=token).release(keep_alive_s=keep_alive_s)
        else:
            with self._lock:
                slot = self._slots[model_id]
                refuse_while_stopping(slot, self._clock.monotonic())
                if not self._life.begin(slot):
                    slot.want_start()
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
            refuse_while_stopping(slot, self._clock.monotonic())
            self._life.begin(slot, only_prepares=True)
            return Pull(slot, self._clock, token)

    def expire(self, model_id: str) -> None:
        """Stop the model as soon as nobody uses it: when it is idle before this returns, else after its last lease."""
        slot = self._slots[model_id]
        with self._lock:
            slot.keep_alive(0.0)
        self._idling.stop_if_due(slot)
        with self._lock:
            # The look at all models may have found it idle at the same moment, and be the one that stops it. Who drains
            # it is somebody else.
            while slot.is_retiring and not slot.leases and not self._life.is_closing:
                self._clock.wait(slot.changed, None)

    def stop(self, model_id: str) -> None:
        """Refuse new work, let what is in flight end within the grace period, stop, and verify that it is gone."""
        slot = self._slots[model_id]
        with self._closed_to_requests(slot):
            with self._lock:
                self._preloading.forget(slot)
            self._life.cancel(slot, within_s=self._stop_grace_s)
            self._life.retire(slot, drain_s=self._stop_grace_s)

    def change(self, models: Mapping[str, ModelSpec], *, remade: Collection[str]) -> None:
        """As `Changing.change`; models that are now to be preloaded are owed a start."""
        preloaded = {slot.spec.id for slot in self._slots.values() if slot.spec.preload}
        self._changing.change(models, remade=remade)
        with self._lock:
            self._preloading.want(slot for slot in self._slots.values() if slot.spec.id not in preloaded)
            self._idling.wake()

    def drop(self, model_ids: Collection[str]) -> None:
        """As `Changing.drop`."""
        self._changing.drop(model_ids)

    def drifted(self) -> set[str]:
        """The running models whose container is not what the Compose files and images are now. Asks Docker."""
        with self._lock:
            running = self._slots.serving()
        return self._backend.drifted(running)

    def reopen(self) -> None:
        """As `Changing.reopen`."""
        self._changing.reopen()

    def preload(self, *, after_gap: bool = False) -> None:
        """Begin the starts that are owed to models with `preload`; call it after a look at Docker (`adopt`).

        With `after_gap`, Docker may have been away: those that were lost by that are owed one, too.
        """
        with self._lock:
            if after_gap:
                self._preloading.want_lost()
            self._preloading.work()

    def delete_files(self, model_id: str) -> int:
        """Remove the model's downloads and prepared volumes; returns bytes freed. ModelBusy unless it is at rest."""
        slot = self._slots[model_id]
        with self._closed_to_requests(slot, only_at_rest=True):
            try:
                return self._backend.delete_files(model_id)
            finally:
                self._life.look_at_files(slot)

    def plan(self, model_id: str) -> Plan:
        """What a start of the model would come to now; nothing is done. Raises like the backend's `room`."""
        return self._life.admission.plan(self._slots[model_id])

    def view(self, model_id: str) -> ModelView:
        """What can be said of one model now."""
        slot = self._slots[model_id]
        port = self._backend.ports().get(model_id)
        if port is None:  # a reload has removed it since
            raise ModelNotFound(f"{model_id} was removed from models.yaml", param="model_id")
        with self._lock:
            return view_of(slot, self._clock.monotonic(), port)

    def snapshot(self) -> list[ModelView]:
        """What can be said of every model now, in the registry's order."""
        # In this order: what is here now has a port, unless a reload removes it.
        slots = self._slots.values()
        ports = self._backend.ports()
        with self._lock:
            now = self._clock.monotonic()
            return [view_of(slot, now, ports[slot.spec.id]) for slot in slots if slot.spec.id in ports]

    def gauges(self) -> dict[str, Gauges]:
        """What is so of each model now, for the metrics."""
        with self._lock:
            return {slot.spec.id: gauges_of(slot) for slot in self._slots.values()}

    def adopt(self, model_id: str | None = None) -> None:
        """Make memory follow Docker: adopt what runs, let go of what does not; one model, or all.

        Models in the middle of a start or stop are left to those. Raises a Docker error when Docker does not answer.
        """
        self._reconciling.adopt(model_id)

    def end(self, model_id: str, container_id: str, why: str) -> None:
        """As `Reconciling.end`."""
        self._reconciling.end(model_id, container_id, why)

    def reap(self) -> None:
        """Stop every model whose idle deadline has passed; returns when they have stopped.

        One that cannot be stopped now is left as it is, and tried again a while later.
        """
        for slot in self._slots.values():
            self._idling.stop_if_due(slot)

    def measure(self) -> None:
        """Sample CPU, memory and drift of the running models, for `view`. Docker takes about 2 s for it."""
        self._measuring.measure()

    def rest_until_due(self, look_at: float) -> bool:
        """Wait until a model's idle deadline or `look_at` (monotonic); False when the supervisor is closing."""
        return self._idling.rest_until_due(look_at)

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
            self._idling.wake()
            for slot in self._slots.values():
                slot.changed.notify_all()

    @contextmanager
    def _closed_to_requests(self, slot: Slot, *, only_at_rest: bool = False) -> Iterator[None]:
        """Refuse new leases, and whoever wants the same, within the block.

        Raises ModelBusy when it has to rest and does not.
        """
        with self._lock:
            refuse_while_stopping(slot, self._clock.monotonic())
            if not slot.close_to_requests(only_at_rest=only_at_rest):
                name = slot.spec.id
                raise ModelBusy(f"{name} is {slot.state.value}; stop it first (POST /stop), then delete its files")
        try:
            yield
        finally:
            with self._lock:
                slot.open_to_requests()

    def _release(self, slot: Slot, taken_at: float, keep_alive_s: float | None) -> None:
        with self._lock:
            slot.return_lease(taken_at, self._clock.monotonic(), keep_alive_s)
            if not slot.leases and not slot.queue:
                self._life.admission.nudge()
            self._idling.wake_for(slot)

    def _wake(self, slot: Slot) -> None:
        with self._lock:
            slot.changed.notify_all()
