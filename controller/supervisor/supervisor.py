"""States, leases, single-flight starts, idle stops and adoption of every model."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping

from controller.docker_service import Container
from controller.errors import (
    Cancelled,
    DeadlineExceeded,
    ModelBusy,
    ModelPreparing,
    ModelStopping,
    OrchestrarError,
    Unavailable,
)
from controller.preparation import PreparationProgress
from controller.readiness import Readiness
from controller.registry import ModelSpec
from controller.supervisor.clock import Clock, SystemClock
from controller.supervisor.model import RESTING, Attempt, CancelToken, Lease, ModelView, Slot, State, view_of
from controller.supervisor.starting import Backend, Starter

log = logging.getLogger(__name__)

# How long a container has for its own SIGTERM once the requests in flight were given their grace.
TERM_GRACE_S = 3


class Supervisor:
    """One lock guards the state; no Docker or HTTP call is made while it is held.

    Callers never look first and start then: they `acquire` and get a lease, or an error that says why not.
    """

    def __init__(
        self,
        models: Mapping[str, ModelSpec],
        backend: Backend,
        probe: Callable[[int], Readiness],
        *,
        clock: Clock | None = None,
        stop_grace_s: int = 30,
    ) -> None:
        self._backend = backend
        self._clock = clock or SystemClock()
        self._starter = Starter(backend, probe, self._clock)
        self._stop_grace_s = stop_grace_s
        self._lock = threading.Lock()
        self._monitor_wakes = threading.Condition(self._lock)
        self._closing = False
        self._slots = {
            spec.id: Slot(spec, threading.Condition(self._lock), self._resting_state(spec.id))
            for spec in models.values()
        }

    def acquire(self, model_id: str, *, max_wait_s: float | None = None, token: CancelToken | None = None) -> Lease:
        """A lease on the ready model, started first where needed; blocks at most `max_wait_s` (default: the model's).

        Raises StartFailed (or what else ended the start), ModelStopping, ModelPreparing or DeadlineExceeded when
        time is up, and Cancelled when the token was cancelled. The start goes on whoever leaves.
        """
        slot = self._slots[model_id]
        begun = self._clock.monotonic()
        deadline = begun + (slot.spec.max_wait_s if max_wait_s is None else max_wait_s)
        if token is not None:
            token.on_cancel(lambda: self._wake(slot))
        with self._lock:
            waited = False
            while not self._is_open(slot):
                waited = True
                self._await_change(slot, deadline, token)
            slot.leases += 1
            assert slot.container is not None
            start_s = self._clock.monotonic() - begun if waited else 0.0
            return Lease(model_id, slot.container, start_s, lambda keep: self._release(slot, keep))

    def run(self, model_id: str, *, wait: bool, token: CancelToken | None = None) -> ModelView:
        """Start the model and, with `wait`, return when it is ready; raises like `acquire`."""
        if wait:
            self.acquire(model_id, token=token).release()
        else:
            with self._lock:
                slot = self._slots[model_id]
                self._refuse_while_stopping(slot)
                if slot.state in RESTING:
                    self._begin(slot)
        return self.view(model_id)

    def stop(self, model_id: str) -> None:
        """Refuse new work, let what is in flight end within the grace period, stop, and verify that it is gone."""
        slot = self._slots[model_id]
        with self._lock:
            self._refuse_while_stopping(slot)
            slot.stop_requested = True
        try:
            self._cancel_attempt(slot)
            with self._lock:
                container = slot.container
            self._retire(slot, container or self._backend.find(model_id), drain_s=self._stop_grace_s)
        finally:
            with self._lock:
                slot.stop_requested = False
                slot.changed.notify_all()

    def delete_files(self, model_id: str) -> int:
        """Remove the model's downloads and prepared volumes; returns bytes freed. ModelBusy unless it is at rest."""
        slot = self._slots[model_id]
        with self._lock:
            if slot.state not in RESTING or slot.stop_requested:
                raise ModelBusy(f"{model_id} is {slot.state.value}; stop it first (POST /stop), then delete its files")
            slot.enter(State.DRAINING)
        try:
            return self._backend.delete_files(model_id)
        finally:
            self._rest(slot)

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
        with self._lock:
            for slot in slots:
                if slot.epoch == epochs[slot.spec.id]:
                    self._reconcile(slot, found.get(slot.spec.id))

    def reap(self) -> None:
        """Stop every model whose idle deadline has passed; returns when they have stopped."""
        now = self._clock.monotonic()
        with self._lock:
            due = [s for s in self._slots.values() if (deadline := s.idle_deadline()) is not None and deadline <= now]
            for slot in due:
                slot.enter(State.DRAINING)
        for slot in due:
            log.info("%s: idle, stopping it", slot.spec.id)
            try:
                self._retire(slot, slot.container, drain_s=0)
            except OrchestrarError as exc:
                log.warning("%s: could not be stopped: %s", slot.spec.id, exc.message)

    def measure(self) -> None:
        """Sample CPU, memory and drift of the running models, for `view`. Docker takes about 2 s for it."""
        with self._lock:
            running = [s.container for s in self._slots.values() if s.container is not None and s.state is State.READY]
        usage = self._backend.usage([container.id for container in running])
        drifted = self._backend.drifted(running)
        with self._lock:
            for slot in self._slots.values():
                slot.usage = usage.get(slot.container.id) if slot.container else None
                slot.drifted = slot.spec.id in drifted

    def rest_until_due(self, look_at: float) -> bool:
        """Wait until a model's idle deadline or `look_at` (monotonic); False when the supervisor is closing."""
        with self._lock:
            deadlines = [due for slot in self._slots.values() if (due := slot.idle_deadline()) is not None]
            wait_s = min([look_at, *deadlines]) - self._clock.monotonic()
            if wait_s > 0 and not self._closing:
                self._clock.wait(self._monitor_wakes, wait_s)
            return not self._closing

    def close(self) -> None:
        """Let every waiter and thread go; the models themselves stay as they are. For good."""
        with self._lock:
            self._closing = True
            self._monitor_wakes.notify_all()
            for slot in self._slots.values():
                slot.changed.notify_all()

    def _is_open(self, slot: Slot) -> bool:
        """Whether a lease can be given now; begins a start where one is needed. Raises when none will be given."""
        self._refuse_while_stopping(slot)
        if slot.state in RESTING:
            self._begin(slot)
        return slot.state is State.READY

    def _await_change(self, slot: Slot, deadline: float, token: CancelToken | None) -> None:
        """Wait for the slot to change; raises when time is up, the client has left, or the shared start failed."""
        if token is not None and token.cancelled:
            raise Cancelled("the client has left")
        attempt = slot.attempt
        left_s = deadline - self._clock.monotonic()
        if left_s <= 0:
            raise self._too_late(slot)
        slot.waiters += 1
        try:
            self._clock.wait(slot.changed, left_s)
        finally:
            slot.waiters -= 1
        if self._closing:
            raise Unavailable("the controller is shutting down; try again when it is back", retry_after_s=5.0)
        if attempt is not None and attempt.done and attempt.error is not None:
            raise attempt.error

    def _too_late(self, slot: Slot) -> OrchestrarError:
        if slot.state is State.PREPARING:
            done = slot.progress.fraction if slot.progress else None
            percent = None if done is None else round(100 * done)
            return ModelPreparing(
                f"{slot.spec.id} is being prepared ({slot.progress.phase if slot.progress else 'downloading'}"
                f"{'' if percent is None else f', {percent} %'}); it goes on in the background, try again soon",
                retry_after_s=10.0,
                details={"percent": percent},
            )
        return DeadlineExceeded(
            f"{slot.spec.id} was not ready in time (it is {slot.state.value}); it goes on, and `max_wait` in "
            "models.yaml is how long a request waits"
        )

    def _refuse_while_stopping(self, slot: Slot) -> None:
        if slot.stop_requested:
            raise ModelStopping(f"{slot.spec.id} is being stopped; requests after that start it again")

    def _begin(self, slot: Slot) -> None:
        """Begin the one start that all waiters share. Eviction, once there is a budget, goes before it."""
        slot.attempt = Attempt(self._clock.monotonic())
        slot.error = None
        slot.enter(State.STARTING)
        name = f"start {slot.spec.id}"
        threading.Thread(target=self._attempt, args=(slot, slot.attempt), name=name, daemon=True).start()

    def _attempt(self, slot: Slot, attempt: Attempt) -> None:
        """The body of a start thread."""
        try:
            container, phases = self._starter.start(slot.spec, _Report(self, slot, attempt))
        except OrchestrarError as exc:
            self._attempt_failed(slot, attempt, exc)
        except Exception as exc:  # the thread's outermost loop: waiters must hear of a fault of ours, too
            log.exception("%s: the start ended in a fault of the controller", slot.spec.id)
            self._attempt_failed(slot, attempt, OrchestrarError(f"the start of {slot.spec.id} failed: {exc!r}"))
        else:
            with self._lock:
                now = self._clock.monotonic()
                slot.container, slot.phases, slot.progress = container, phases, None
                slot.ready_at = slot.used_at = now
                slot.start_s = now - attempt.started_at
                slot.keep_alive_s = None
                attempt.done, slot.attempt = True, None
                slot.enter(State.READY)
                self._monitor_wakes.notify_all()
            log.info("%s: ready on port %s after %.2f s", slot.spec.id, container.port, slot.start_s)

    def _attempt_failed(self, slot: Slot, attempt: Attempt, error: OrchestrarError) -> None:
        resting = self._resting_state(slot.spec.id)
        with self._lock:
            if attempt.cancelled:
                error = ModelStopping(f"{slot.spec.id} was stopped while it started; a new request starts it again")
            attempt.error, attempt.done, slot.attempt = error, True, None
            slot.progress, slot.container = None, None
            slot.error = None if attempt.cancelled else error
            slot.enter(resting if attempt.cancelled else State.FAILED)
        log.warning("%s: the start ended: %s", slot.spec.id, error.message)

    def _cancel_attempt(self, slot: Slot) -> None:
        """End a start under way and wait until its thread has let go."""
        with self._lock:
            attempt = slot.attempt
            if attempt is None:
                return
            attempt.cancelled = True
            while not attempt.done:
                self._clock.wait(slot.changed, None)

    def _retire(self, slot: Slot, container: Container | None, *, drain_s: float) -> None:
        """Drain, stop by container id, and come to rest. On a Docker error the model stays what it was."""
        with self._lock:
            slot.enter(State.DRAINING)
            deadline = self._clock.monotonic() + drain_s
            while slot.leases and (left_s := deadline - self._clock.monotonic()) > 0:
                self._clock.wait(slot.changed, left_s)
        try:
            if container is not None:
                self._backend.stop(container.id, grace_s=TERM_GRACE_S)
        except OrchestrarError:
            with self._lock:
                slot.enter(State.READY if slot.container is not None else State.STOPPED)
            raise
        self._rest(slot)

    def _rest(self, slot: Slot) -> None:
        resting = self._resting_state(slot.spec.id)
        with self._lock:
            slot.container, slot.ready_at, slot.keep_alive_s, slot.usage = None, None, None, None
            slot.enter(resting)

    def _resting_state(self, model_id: str) -> State:
        return State.STOPPED if self._backend.is_prepared(model_id) else State.ABSENT

    def _reconcile(self, slot: Slot, found: Container | None) -> None:
        if slot.stop_requested or slot.attempt is not None or slot.state is State.DRAINING:
            return
        if slot.state is State.READY:
            if found is None or not found.running:
                log.warning("%s: its container ended outside of our doing", slot.spec.id)
                slot.container, slot.ready_at = None, None
                slot.enter(State.STOPPED)
            elif slot.container is None or found.id != slot.container.id:
                self._begin(slot)
        elif found is not None and found.status == "running":
            log.info("%s: adopting its running container", slot.spec.id)
            self._begin(slot)

    def _release(self, slot: Slot, keep_alive_s: float | None) -> None:
        with self._lock:
            slot.leases -= 1
            slot.used_at = self._clock.monotonic()
            slot.keep_alive_s = keep_alive_s
            slot.changed.notify_all()
            if not slot.leases:
                self._monitor_wakes.notify_all()

    def _wake(self, slot: Slot) -> None:
        with self._lock:
            slot.changed.notify_all()


class _Report:
    """A start's way to tell the slot where it is."""

    def __init__(self, supervisor: Supervisor, slot: Slot, attempt: Attempt) -> None:
        self._supervisor = supervisor
        self._slot = slot
        self._attempt = attempt

    def entered(self, state: State) -> None:
        with self._supervisor._lock:
            self._slot.enter(state)

    def progressed(self, progress: PreparationProgress) -> None:
        with self._supervisor._lock:
            self._slot.progress = progress

    def cancelled(self) -> bool:
        return self._attempt.cancelled

    def closing(self) -> bool:
        return self._supervisor._closing
