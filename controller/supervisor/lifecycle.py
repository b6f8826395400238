"""How one model goes from state to state: starts in threads of their own, drains, stops, and what Docker says."""

from __future__ import annotations

import copy
import logging
import random
import threading
from collections.abc import Callable, Iterable
from typing import Any

from controller.docker_service import Container
from controller.errors import (
    Cancelled,
    DockerError,
    DockerUnavailable,
    ModelDied,
    ModelPaused,
    ModelStopping,
    NoRoom,
    OrchestrarError,
)
from controller.metrics import Metrics
from controller.readiness import Readiness
from controller.supervisor.admission import Admission
from controller.supervisor.clock import Clock
from controller.supervisor.evidence import death_of, retry_at
from controller.supervisor.model import Attempt, Slot, State, shutting_down
from controller.supervisor.reporting import Report
from controller.supervisor.starting import Backend, Starter

log = logging.getLogger(__name__)

STOP_TRIES = 3
# How long a container has for its own SIGTERM once the requests in flight were given their grace.
TERM_GRACE_S = 3
STOP_AGAIN_AFTER_S = 10.0


class Lifecycle:
    """The transitions. `lock` is the supervisor's: `begin` and `reconcile` run with it held, all else without."""

    def __init__(
        self,
        backend: Backend,
        probe: Callable[[int, str], Readiness],
        clock: Clock,
        lock: threading.Lock,
        slots: Callable[[], Iterable[Slot]],
        on_ready: Callable[[], None],
        metrics: Metrics,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._metrics = metrics
        self._backend = backend
        self._jitter = jitter
        self.admission = Admission(slots, backend, clock, lock, self._evict, metrics)
        self._starter = Starter(backend, probe, clock)
        self._clock = clock
        self._lock = lock
        self._on_ready = on_ready
        self.is_ending = self.is_closing = False

    def close(self) -> None:
        """Let starts end by themselves; their containers go on."""
        self.is_ending = self.is_closing = True

    def begin(self, slot: Slot, *, only_prepares: bool = False, adopts: bool = False) -> None:
        """Begin the one start, or preparation, or adoption, that all waiters share."""
        attempt = Attempt(self._clock.monotonic(), only_prepares=only_prepares, adopts=adopts, unasked=not slot.queue)
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
            slot.changed.notify_all()
            while not attempt.done:
                self._clock.wait(slot.changed, None)

    def supersede(self, slot: Slot, attempt: Attempt) -> bool:
        """End a start whose entry has changed, unnoticed by those who wait, and claim what it leaves for `retire`.

        False when there is nothing to claim: it was over before, or became ready all the same.
        """
        with self._lock:
            if attempt.done:
                return False
            attempt.cancelled = attempt.superseded = True
            slot.changed.notify_all()
            while not attempt.done:
                self._clock.wait(slot.changed, None)
            return attempt.error is not None and slot.is_retiring

    def claim(self, slot: Slot) -> None:
        """Take the right to stop the model, which its `retire` gives back. With the lock held; nobody may have it."""
        slot.is_retiring = True
        slot.enter(State.DRAINING)

    def retire(self, slot: Slot, *, drain_s: float, is_claimed: bool = False) -> None:
        """Drain, stop whatever serves the model, and come to rest. When that fails the model stays what it was.

        One at a time: a second one under way would stop what was started behind the first.
        """
        with self._lock:
            while slot.is_retiring and not is_claimed:
                self._clock.wait(slot.changed, None)
            self.claim(slot)
            deadline = self._clock.monotonic() + drain_s
            while slot.leases and (left_s := deadline - self._clock.monotonic()) > 0:
                self._clock.wait(slot.changed, left_s)
        try:
            self._end_container(slot.spec.id)
        except BaseException:
            with self._lock:
                slot.is_retiring = False
                slot.enter(State.READY if slot.container is not None else State.STOPPED)
            raise
        self.rest(slot)

    def rest(self, slot: Slot) -> None:
        resting = self.resting_state(slot.spec.id)
        with self._lock:
            slot.container, slot.ready_at, slot.keep_alive_s, slot.usage = None, None, None, None
            slot.is_retiring = False
            self._settle(slot, resting)

    def _evict(self, slot: Slot, is_wanted: Callable[[], bool]) -> None:
        """The body of a thread that makes a model leave for another one, which may stop wanting the place."""
        with self._lock:
            while slot.leases and is_wanted():
                self._clock.wait(slot.changed, None)
            if slot.state is not State.DRAINING or slot.stop_requested or slot.is_retiring:
                return
            if slot.leases or not is_wanted():
                slot.enter(State.READY)
                return
            self.claim(slot)
        try:
            self.retire(slot, drain_s=0, is_claimed=True)
        except OrchestrarError as exc:
            log.warning("%s: could not be stopped to make room: %s", slot.spec.id, exc.message)
            with self._lock:
                slot.stop_not_before = self._clock.monotonic() + STOP_AGAIN_AFTER_S
                self.admission.nudge()

    def _settle(self, slot: Slot, resting: State) -> None:
        slot.holds = None
        self.admission.nudge()
        slot.enter(resting)
        wanted, slot.start_wanted = slot.start_wanted, False
        if wanted and not slot.stop_requested:
            self.begin(slot)

    def reconcile(self, slot: Slot, found: Container | None, death: ModelDied | None = None) -> None:
        """Make the record follow what Docker says of its container; `death` is why that one ended on its own."""
        if slot.stop_requested or slot.attempt is not None or slot.state is State.DRAINING:
            return
        if found is not None and found.status == "paused":
            if slot.state is not State.PAUSED:
                log.warning("%s: its container is paused by hand (`docker unpause %s`)", slot.spec.id, found.name)
                slot.ready_at = slot.error = None
                slot.enter(State.PAUSED)
            slot.container = found
        elif slot.state in (State.READY, State.PAUSED):
            if found is None or not found.running:
                self._ended(slot, death)
            elif slot.state is State.PAUSED or slot.container is None or not found.is_same_run(slot.container):
                self.begin(slot, adopts=True)
            else:
                slot.container = found
        elif found is not None and found.status == "running":
            log.info("%s: adopting its running container", slot.spec.id)
            self.begin(slot, adopts=True)
        elif slot.holds is not None:
            slot.holds = None
            self.admission.nudge()

    def _ended(self, slot: Slot, death: ModelDied | None) -> None:
        """Its container ended outside of our doing: by `death`, or by somebody's hand."""
        now = self._clock.monotonic()
        log.warning("%s: %s", slot.spec.id, death.message if death else "its container was stopped by hand")
        served_s = now - slot.ready_at if slot.ready_at is not None else 0.0
        slot.container, slot.ready_at, slot.holds, slot.error = None, None, None, death
        if death is not None:
            self._metrics.died(slot.spec.id)
            slot.failures.died(now, served_s=served_s, jitter=self._jitter)
            death.details["retry_at"] = retry_at(slot.failures.retry_in_s(now))
        self.admission.nudge()
        slot.enter(State.FAILED if slot.failures.retry_in_s(now) else State.STOPPED)

    def resting_state(self, model_id: str) -> State:
        """A model whose files cannot be read is absent; its next start says why."""
        try:
            return State.STOPPED if self._backend.is_prepared(model_id) else State.ABSENT
        except (OrchestrarError, OSError):
            return State.ABSENT

    def _attempt(self, slot: Slot, attempt: Attempt) -> None:
        """The body of a start thread."""
        report = Report(self._lock, slot, attempt, self.admission, lambda: self.is_closing, lambda: self.is_ending)
        try:
            if attempt.adopts:
                self.admission.hold(slot, None)
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
        self.admission.hold(slot, container.memory_limit_bytes)
        with self._lock:
            now = self._clock.monotonic()
            slot.container, slot.phases, slot.progress, slot.error = container, phases, None, None
            slot.ready_at = slot.used_at = now
            slot.peak_bytes = 0
            slot.start_s = now - attempt.started_at
            if attempt.admitted_at is not None:
                slot.reload_s = now - attempt.admitted_at
            slot.failures.became_ready()
            attempt.done, slot.attempt = True, None
            slot.enter(State.READY)
            self.admission.nudge()
            self._on_ready()
        self._metrics.started(slot.spec.id, slot.start_s)
        told = ", ".join(f"{name.removesuffix('_s')} {took}" for name, took in phases.items())
        log.info("%s: ready on port %s after %.2f s (%s)", slot.spec.id, container.port, slot.start_s, told)

    def _attempt_failed(self, slot: Slot, attempt: Attempt, error: OrchestrarError) -> None:
        resting = self.resting_state(slot.spec.id)
        is_left = attempt.cancelled and attempt.adopts
        may_run = is_left or isinstance(error, DockerError | DockerUnavailable | ModelPaused)
        if attempt.superseded:
            error = ModelStopping(f"models.yaml changed {slot.spec.id} meanwhile; ask again")
        elif attempt.cancelled:
            error = ModelStopping(f"{slot.spec.id} was stopped while it started; a new request starts it again")
        elif self.is_ending and isinstance(error, Cancelled):
            error = shutting_down()
        log.warning("%s: the start ended: %s", slot.spec.id, error.message)
        self._metrics.start_failed(slot.spec.id, error.code)
        with self._lock:
            now = self._clock.monotonic()
            if error.backs_off:
                slot.failures.start_failed(now, self._jitter)
                error.retry_after_s = slot.failures.retry_in_s(now)
                error.details["retry_at"] = retry_at(error.retry_after_s)
            attempt.error, attempt.done, slot.attempt = copy.copy(error), True, None
            slot.progress, slot.container = None, None
            if attempt.superseded and not self.is_closing:
                slot.start_wanted |= not attempt.only_prepares
                self.claim(slot)
                return
            slot.start_wanted = False
            # What may run all the same is counted until a look at Docker tells.
            slot.holds = slot.holds if may_run else None
            # Nothing of the model's own failed.
            as_it_was = attempt.cancelled or isinstance(error, NoRoom)
            slot.error = None if as_it_was else attempt.error
            self.admission.nudge()
            slot.enter(resting if as_it_was else State.FAILED)

    def recount(self, slot: Slot) -> None:
        """Count anew what a running model takes, now that more is known of it. Called without the lock."""
        container = slot.container
        if slot.state in (State.READY, State.PAUSED) and container is not None:
            self.admission.hold(slot, container.memory_limit_bytes)

    def death_of(self, slot: Slot, found: Container | None) -> ModelDied | None:
        """Why the model's container, as Docker shows it now, ended on its own; None while it runs, or by a hand.

        Asks Docker for its log; called without the lock.
        """
        if found is None or found.running or slot.container is None or slot.container.id != found.id:
            return None
        return death_of(slot.spec.id, found, self._backend.logs, slot.peak_bytes or None)

    def _end_container(self, model_id: str) -> None:
        """Stop by container id until nothing runs: by hand, another may have taken the place of the one we knew."""
        for _ in range(STOP_TRIES):
            container = self._backend.find(model_id)
            if container is None or not container.running:
                return
            self._backend.stop(container.id, grace_s=TERM_GRACE_S)
        raise DockerError(f"{model_id}: its containers come back as fast as they are stopped; look at `docker ps`")
