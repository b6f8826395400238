"""How one model goes from state to state: starts in threads of their own, drains, stops, and what Docker says."""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Callable
from typing import Any

from controller.docker_service import Container
from controller.errors import DockerError, ModelStopping, OrchestrarError
from controller.preparation import PreparationProgress
from controller.readiness import Readiness
from controller.supervisor.clock import Clock
from controller.supervisor.model import Attempt, Slot, State
from controller.supervisor.starting import Backend, Starter

log = logging.getLogger(__name__)

STOP_TRIES = 3
# How long a container has for its own SIGTERM once the requests in flight were given their grace.
TERM_GRACE_S = 3


class Lifecycle:
    """The transitions. `lock` is the supervisor's: `begin` and `reconcile` run with it held, all else without."""

    def __init__(
        self,
        backend: Backend,
        probe: Callable[[int, str], Readiness],
        clock: Clock,
        lock: threading.Lock,
        on_ready: Callable[[], None],
    ) -> None:
        self._backend = backend
        self._starter = Starter(backend, probe, clock)
        self._clock = clock
        self._lock = lock
        self._on_ready = on_ready
        self.is_closing = False

    def close(self) -> None:
        """Let starts end by themselves; their containers go on."""
        self.is_closing = True

    def begin(self, slot: Slot, *, only_prepares: bool = False) -> None:
        """Begin the one start, or preparation, that all waiters share. Eviction, once there is a budget, goes first."""
        attempt = Attempt(self._clock.monotonic(), only_prepares=only_prepares)
        name = f"{'prepare' if only_prepares else 'start'} {slot.spec.id}"
        # It waits for the lock that we hold; a thread that cannot be had changes nothing.
        threading.Thread(target=self._attempt, args=(slot, attempt), name=name, daemon=True).start()
        slot.attempt = attempt
        slot.error, slot.keep_alive_s, slot.stop_not_before = None, None, 0.0
        slot.enter(State.PREPARING if only_prepares else State.STARTING)

    def cancel(self, slot: Slot) -> None:
        """End a start under way and wait until its thread has let go."""
        with self._lock:
            attempt = slot.attempt
            if attempt is None:
                return
            attempt.cancelled = True
            while not attempt.done:
                self._clock.wait(slot.changed, None)

    def retire(self, slot: Slot, *, drain_s: float) -> None:
        """Drain, stop whatever serves the model, and come to rest. When that fails the model stays what it was."""
        with self._lock:
            slot.enter(State.DRAINING)
            deadline = self._clock.monotonic() + drain_s
            while slot.leases and (left_s := deadline - self._clock.monotonic()) > 0:
                self._clock.wait(slot.changed, left_s)
        try:
            self._end_container(slot.spec.id)
        except BaseException:
            with self._lock:
                slot.enter(State.READY if slot.container is not None else State.STOPPED)
            raise
        self.rest(slot)

    def rest(self, slot: Slot) -> None:
        resting = self.resting_state(slot.spec.id)
        with self._lock:
            slot.container, slot.ready_at, slot.keep_alive_s, slot.usage = None, None, None, None
            self._settle(slot, resting)

    def _settle(self, slot: Slot, resting: State) -> None:
        slot.enter(resting)
        wanted, slot.start_wanted = slot.start_wanted, False
        if wanted and not slot.stop_requested:
            self.begin(slot)

    def reconcile(self, slot: Slot, found: Container | None) -> None:
        if slot.stop_requested or slot.attempt is not None or slot.state is State.DRAINING:
            return
        if slot.state is State.READY:
            if found is None or not found.running:
                log.warning("%s: its container ended outside of our doing", slot.spec.id)
                slot.container, slot.ready_at = None, None
                slot.enter(State.STOPPED)
            elif slot.container is None or found.id != slot.container.id:
                self.begin(slot)
        elif found is not None and found.status == "running":
            log.info("%s: adopting its running container", slot.spec.id)
            self.begin(slot)

    def resting_state(self, model_id: str) -> State:
        """A model whose files cannot be read is absent; its next start says why."""
        try:
            return State.STOPPED if self._backend.is_prepared(model_id) else State.ABSENT
        except (OrchestrarError, OSError):
            return State.ABSENT

    def _attempt(self, slot: Slot, attempt: Attempt) -> None:
        """The body of a start thread."""
        report = _Report(self._lock, slot, attempt, lambda: self.is_closing)
        try:
            if attempt.only_prepares:
                self._starter.pull(slot.spec, report)
                self._attempt_prepared(slot, attempt)
            else:
                self._attempt_ready(slot, attempt, *self._starter.start(slot.spec, report))
        except OrchestrarError as exc:
            self._attempt_failed(slot, attempt, exc)
        except Exception as exc:  # the thread's outermost loop: waiters must hear of a fault of ours, too
            log.exception("%s: the start ended in a fault of the controller", slot.spec.id)
            self._attempt_failed(slot, attempt, OrchestrarError(f"the start of {slot.spec.id} failed: {exc!r}"))

    def _attempt_prepared(self, slot: Slot, attempt: Attempt) -> None:
        resting = self.resting_state(slot.spec.id)
        with self._lock:
            attempt.done, slot.attempt, slot.progress = True, None, None
            self._settle(slot, resting)

    def _attempt_ready(self, slot: Slot, attempt: Attempt, container: Container, phases: dict[str, Any]) -> None:
        with self._lock:
            now = self._clock.monotonic()
            slot.container, slot.phases, slot.progress = container, phases, None
            slot.ready_at = slot.used_at = now
            slot.start_s = now - attempt.started_at
            attempt.done, slot.attempt = True, None
            slot.enter(State.READY)
            self._on_ready()
        told = ", ".join(f"{name.removesuffix('_s')} {took}" for name, took in phases.items())
        log.info("%s: ready on port %s after %.2f s (%s)", slot.spec.id, container.port, slot.start_s, told)

    def _attempt_failed(self, slot: Slot, attempt: Attempt, error: OrchestrarError) -> None:
        resting = self.resting_state(slot.spec.id)
        if attempt.cancelled:
            error = ModelStopping(f"{slot.spec.id} was stopped while it started; a new request starts it again")
        log.warning("%s: the start ended: %s", slot.spec.id, error.message)
        with self._lock:
            attempt.error, attempt.done, slot.attempt = copy.copy(error), True, None
            slot.progress, slot.container, slot.start_wanted = None, None, False
            slot.error = None if attempt.cancelled else attempt.error
            slot.enter(resting if attempt.cancelled else State.FAILED)

    def _end_container(self, model_id: str) -> None:
        """Stop by container id until nothing runs: by hand, another may have taken the place of the one we knew."""
        for _ in range(STOP_TRIES):
            container = self._backend.find(model_id)
            if container is None or not container.running:
                return
            self._backend.stop(container.id, grace_s=TERM_GRACE_S)
        raise DockerError(f"{model_id}: its containers come back as fast as they are stopped; look at `docker ps`")


class _Report:
    """A start's way to tell the slot where it is."""

    def __init__(self, lock: threading.Lock, slot: Slot, attempt: Attempt, closing: Callable[[], bool]) -> None:
        self._lock = lock
        self._slot = slot
        self._attempt = attempt
        self.closing = closing

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
