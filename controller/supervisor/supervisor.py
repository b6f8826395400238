"""The calls by which the controller uses, starts, stops and inspects models, and the lock that guards them."""

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
from controller.supervisor.slot import Slot, SlotTable
from controller.supervisor.view import ModelView, gauges_of, view_of
from controller.supervisor.watching.reconcile import Reconciler


class Supervisor:
    """All models of the controller. One lock guards their state, and is never held during a Docker or HTTP call.

    Callers never look first and then start: they `acquire` and get a lease, or an error that says why not.
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
            on_ready=lambda: self._idle_stopper.wake(),
            metrics=self.metrics,
            jitter=jitter,
        )
        self.metrics.show(self.gauges)
        self._lease_queue = LeaseQueue(self._life, self._clock)
        self._slots = SlotTable(self._lock, self._life.resting_state, backend.decided)
        self._slots.replace(models.values())
        self._idle_stopper = IdleStopper(self._slots, self._life, backend, self._clock, self._lock)
        self._usage_meter = UsageMeter(self._slots, self._life.admission, backend, self._lock)
        self._reconciler = Reconciler(
            self._slots, self._life, self._usage_meter, backend, self._clock, self._lock, self.metrics, jitter
        )
        self._preloader = Preloader(self._slots, self._life, self._clock)
        self._preloader.want(self._slots.values())
        self._config_change = ConfigChange(self._slots, self._life, self._clock, self._lock, stop_grace_s)

    def acquire(self, model_id: str, *, max_wait_s: float | None = None, token: CancelToken | None = None) -> Lease:
        """Return a lease on the model, which starts first if needed; blocks for `max_wait_s` (default: the model's).

        At most `max_concurrency` leases are out; further callers queue, first come first served, up to `max_queue`.
        Raises Overloaded beyond that, StartFailed (or what else ended the start), ModelStopping, ModelPreparing or
        DeadlineExceeded if time is up, and Cancelled if the token was cancelled. A start goes on if callers leave.
        """
        slot = self._slots[model_id]
        asked_at = self._clock.monotonic()
        deadline = asked_at + (slot.spec.max_wait_s if max_wait_s is None else max_wait_s)
        if token is not None:
            token.on_cancel(lambda: self._wake(slot))
        try:
            with self._lock:
                ready_at = self._lease_queue.take(slot, asked_at, deadline, token)
                container, taken_at = slot.container, self._clock.monotonic()
        except OrchestrarError as exc:
            self.metrics.count_refusal(model_id, exc.code)
            raise
        assert container is not None
        self.metrics.queue_wait_s.labels(model_id).observe(taken_at - asked_at)
        return Lease(
            model_id,
            container,
            start_s=ready_at - asked_at,
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

        A model that is left alone after failures is tried at once.
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
        """Make present all that a start needs, in the background, shared by all callers that want the same.

        What is present is not fetched again, and a running model has all. It goes on if callers leave; a stop ends it.
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
        """Stop the model as soon as no request uses it: before this returns if it is idle, else after the last one."""
        slot = self._slots[model_id]
        with self._lock:
            slot.keep_alive(0.0)
        self._idle_stopper.stop_if_due(slot)
        with self._lock:
            # The look at all models may have found it idle at the same moment and be stopping it. A stop that drains
            # it is another matter.
            while slot.is_retiring and not slot.leases and not self._life.is_closing:
                self._clock.wait(slot.on_change, None)

    def stop(self, model_id: str) -> None:
        """Refuse new requests, let those in flight end within the grace period, stop, and verify that nothing runs."""
        slot = self._slots[model_id]
        with self._closed_to_requests(slot):
            with self._lock:
                self._preloader.forget(slot)
            self._life.cancel(slot, within_s=self._stop_grace_s)
            self._life.retire(slot, drain_s=self._stop_grace_s)

    def change(self, models: Mapping[str, ModelSpec], *, remade: Collection[str]) -> None:
        """Do `ConfigChange.change`, and plan the starts of models that have `preload` now."""
        preloaded = {slot.spec.id for slot in self._slots.values() if slot.spec.preload}
        self._config_change.change(models, remade=remade)
        with self._lock:
            self._preloader.want(slot for slot in self._slots.values() if slot.spec.id not in preloaded)
            self._idle_stopper.wake()

    def drop(self, model_ids: Collection[str]) -> None:
        """Do `ConfigChange.drop`."""
        self._config_change.drop(model_ids)

    def drifted(self) -> set[str]:
        """Return the running models whose container differs from what the Compose files and images are now.

        Asks Docker.
        """
        with self._lock:
            running = self._slots.serving()
        return self._backend.drifted(running)

    def reopen(self) -> None:
        """Do `ConfigChange.reopen`."""
        self._config_change.reopen()

    def preload(self, *, after_gap: bool = False) -> None:
        """Begin the planned starts of models with `preload`; call it after a look at Docker (`adopt`).

        With `after_gap`, Docker may have been away: models that were lost by that are started, too.
        """
        with self._lock:
            if after_gap:
                self._preloader.want_lost()
            self._preloader.work()

    def delete_files(self, model_id: str) -> int:
        """Remove the model's downloads and prepared volumes; returns the bytes freed. ModelBusy unless it rests."""
        slot = self._slots[model_id]
        with self._closed_to_requests(slot, only_at_rest=True):
            try:
                return self._backend.delete_files(model_id)
            finally:
                self._life.look_at_files(slot)

    def plan(self, model_id: str) -> Plan:
        """Return what a start of the model would do now, without doing it. Raises like the backend's `room`."""
        return self._life.admission.plan(self._slots[model_id])

    def entry(self, model_id: str) -> ModelSpec:
        """Return the model's entry, with the engine that its files have decided if that is `auto`."""
        return self._slots[model_id].spec

    def view(self, model_id: str) -> ModelView:
        """Return what the API shows of one model now."""
        slot = self._slots[model_id]
        port = self._backend.ports().get(model_id)
        if port is None:  # a reload has removed it since
            raise ModelNotFound(f"{model_id} was removed from models.yaml", param="model_id")
        with self._lock:
            return view_of(slot, self._clock.monotonic(), port)

    def snapshot(self) -> list[ModelView]:
        """Return what the API shows of every model now, in the registry's order."""
        # In this order: a model that is in the table has a port, unless a reload removes it.
        slots = self._slots.values()
        ports = self._backend.ports()
        with self._lock:
            now = self._clock.monotonic()
            return [view_of(slot, now, ports[slot.spec.id]) for slot in slots if slot.spec.id in ports]

    def gauges(self) -> dict[str, Gauges]:
        """Return what the metrics show of each model now."""
        with self._lock:
            return {slot.spec.id: gauges_of(slot) for slot in self._slots.values()}

    def adopt(self, model_id: str | None = None) -> None:
        """Make the records follow Docker: adopt what runs, release what does not; one model, or all.

        Models in the middle of a start or stop are left alone. Raises a Docker error if Docker does not answer.
        """
        self._reconciler.adopt(model_id)

    def end(self, model_id: str, container_id: str, reason: str) -> None:
        """Do `Reconciler.end`."""
        self._reconciler.end(model_id, container_id, reason)

    def reap(self) -> None:
        """Stop every model whose idle deadline has passed; returns when they have stopped.

        A model that cannot be stopped now is left as it is, and tried again later.
        """
        for slot in self._slots.values():
            self._idle_stopper.stop_if_due(slot)

    def measure(self) -> None:
        """Sample CPU, memory and drift of the running models, for `view`. Docker takes about 2 s."""
        self._usage_meter.measure()

    def rest_until_due(self, look_at: float) -> bool:
        """Wait until a model's idle deadline or `look_at` (monotonic); False if the supervisor is closing."""
        return self._idle_stopper.rest_until_due(look_at)

    def end_preparations(self) -> None:
        """End preparations, which may take longer than any grace: the controller is about to end.

        Requests that wait for one get Unavailable; all else goes on until `close`. Takes no lock: signal handlers may
        call it.
        """
        self._life.is_ending = True

    def wait_for_attempts(self, within_s: float) -> None:
        """Wait, after `close`, until starts and preparations have released what they hold, or the time is up."""
        deadline = self._clock.monotonic() + within_s
        with self._lock:
            for slot in self._slots.values():
                while slot.attempt is not None and (left_s := deadline - self._clock.monotonic()) > 0:
                    self._clock.wait(slot.on_change, left_s)

    def stop_all(self, within_s: float) -> None:
        """Stop every model, after `close`, for a controller that does not leave them running."""
        stop_all(self._backend, within_s)

    def close(self) -> None:
        """End all waits and threads for good; the models themselves stay as they are."""
        self._life.close()
        with self._lock:
            self._idle_stopper.wake()
            for slot in self._slots.values():
                slot.on_change.notify_all()

    @contextmanager
    def _closed_to_requests(self, slot: Slot, *, only_at_rest: bool = False) -> Iterator[None]:
        """Refuse requests within the block, and other stops and deletions.

        Raises ModelBusy if the model has to rest and does not.
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
            if not slot.leases and not slot.queue and self._life.admission.waiting:
                self._life.admission.nudge()
            # As a rule the deadline is not before the sleep ends anyway, and waking the thread costs each request time.
            if slot.is_due_before(self._idle_stopper.sleeps_until):
                self._idle_stopper.wake()

    def _wake(self, slot: Slot) -> None:
        with self._lock:
            slot.on_change.notify_all()
