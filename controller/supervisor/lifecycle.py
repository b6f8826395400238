"""How one model goes from state to state: starts in threads of their own, drains, stops, and what Docker says."""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Callable, Iterable
from typing import Any

from controller.docker.container import Container
from controller.errors import (
    Cancelled,
    DockerError,
    DockerTimeout,
    DockerUnavailable,
    ModelPaused,
    ModelStopping,
    NoRoom,
    OrchestrarError,
)
from controller.supervisor.backend import Backend, Readiness
from controller.supervisor.clock import Clock
from controller.supervisor.failures.card import with_retry_at
from controller.supervisor.memory.admission import Admission
from controller.supervisor.metrics import Metrics
from controller.supervisor.slot import Attempt, Slot, State, shutting_down
from controller.supervisor.starts.report import Report
from controller.supervisor.starts.starter import NothingRuns, Starter

log = logging.getLogger(__name__)

STOP_TRIES = 3
# How long a container has for its own SIGTERM once the requests in flight were given their grace.
TERM_GRACE_S = 3
STOP_AGAIN_AFTER_S = 10.0


class Lifecycle:
    """The transitions. `lock` is the supervisor's: `begin` and `claim` run with it held, all else without."""

    def __init__(
        self,
        backend: Backend,
        probe: Callable[[int, str], Readiness],
        clock: Clock,
        lock: threading.Lock,
        slots: Callable[[], Iterable[Slot]],
        on_ready: Callable[[], None],
        metrics: Metrics,
        jitter: Callable[[], float],
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

    def begin(self, slot: Slot, *, only_prepares: bool = False, adopts: bool = False, preloads: bool = False) -> None:
        """Begin the one start, or preparation, or adoption, that all waiters share."""
        attempt = Attempt(
            self._clock.monotonic(),
            only_prepares=only_prepares,
            adopts=adopts,
            unasked=not slot.queue,
            preloads=preloads,
        )
        name = f"{'prepare' if only_prepares else 'start'} {slot.spec.id}"
        # It waits for the lock that we hold; a thread that cannot be had changes nothing.
        threading.Thread(target=self._attempt, args=(slot, attempt), name=name, daemon=True).start()
        slot.attempt = attempt
        slot.error, slot.blame, slot.keep_alive_s, slot.stop_not_before = None, None, None, 0.0
        slot.enter(State.PREPARING if only_prepares else State.STARTING)

    def cancel(self, slot: Slot, *, within_s: float) -> None:
        """End a start under way and wait until its thread has let go.

        Raises DockerTimeout when it is still in a Docker call by then; it ends when that does.
        """
        with self._lock:
            attempt = slot.attempt
            if attempt is None:
                return
            attempt.cancelled = True
            slot.changed.notify_all()
            deadline = self._clock.monotonic() + within_s
            while not attempt.done:
                if (left_s := deadline - self._clock.monotonic()) <= 0:
                    raise DockerTimeout(
                        f"{slot.spec.id}: its start waits for Docker, which does not answer; it ends as soon as Docker "
                        "does. Look at `docker info`."
                    )
                self._clock.wait(slot.changed, left_s)

    def supersede(self, slot: Slot, attempt: Attempt) -> bool:
        """End a start whose entry has changed, unnoticed by those who wait, and claim what it leaves for `retire`.

        False when there is nothing to claim: it was over before, was superseded already, or became ready all the same.
        """
        with self._lock:
            # Whoever came first has the claim: two would stop what the other starts.
            if attempt.done or attempt.superseded:
                return False
            attempt.cancelled = attempt.superseded = True
            slot.changed.notify_all()
            while not attempt.done:
                self._clock.wait(slot.changed, None)
            return attempt.error is not None and slot.is_retiring

    def claim(self, slot: Slot) -> None:
        """Take the right to stop the model, which its `retire` gives back. With the lock held; nobody may have it."""
        slot.is_retiring = True
        # One that is to leave for another was ready before.
        slot.claimed_as = State.READY if slot.state is State.DRAINING else slot.state
        slot.enter(State.DRAINING)

    def retire(
        self,
        slot: Slot,
        *,
        drain_s: float,
        is_claimed: bool = False,
        before_rest: Callable[[], None] = lambda: None,
    ) -> None:
        """Drain, stop whatever serves the model, and come to rest, from which it may start; `before_rest` may delay
        that.

        When that fails the model stays what it was, or rests if what served it is gone and what else runs is not known.

        One at a time: a second one under way would stop what was started behind the first.
        """
        with self._lock:
            while slot.is_retiring and not is_claimed:
                self._clock.wait(slot.changed, None)
            if not is_claimed:
                self.claim(slot)
            slot.drains_until = self._clock.monotonic() + drain_s
            while slot.leases and (left_s := slot.drains_until - self._clock.monotonic()) > 0:
                self._clock.wait(slot.changed, left_s)
        ended: set[str] = set()
        try:
            self._end_container(slot.spec.id, ended)
        except BaseException:
            self._not_retired(slot, is_gone=bool(ended))
            raise
        before_rest()
        resting = self.resting_state(slot.spec.id)
        with self._lock:
            self._let_go(slot)
            slot.holds = None
            self._settle(slot, resting)

    def _not_retired(self, slot: Slot, *, is_gone: bool) -> None:
        """Its stop has failed; `is_gone` when that had ended what served it."""
        resting = self.resting_state(slot.spec.id)
        with self._lock:
            if slot.claimed_as in (State.READY, State.PAUSED) and not is_gone:
                slot.is_retiring = False
                self._serves_on(slot, slot.claimed_as)
                return
            # Another may run in its place: what is counted for the model is so until a look at Docker tells.
            self._let_go(slot)
            self._settle(slot, State.FAILED if slot.claimed_as is State.FAILED and not is_gone else resting)

    def _serves_on(self, slot: Slot, state: State) -> None:
        """Whoever wanted it started after its stop has what they wanted."""
        slot.start_wanted = False
        slot.enter(state)

    def look_at_files(self, slot: Slot) -> None:
        """The files of a model at rest have changed, which says nothing of what may run of it all the same."""
        resting = self.resting_state(slot.spec.id)
        with self._lock:
            slot.enter(resting)

    def _let_go(self, slot: Slot) -> None:
        slot.container, slot.ready_at, slot.keep_alive_s, slot.usage = None, None, None, None
        slot.is_retiring = slot.was_lost = False

    def _evict(self, slot: Slot, is_wanted: Callable[[], bool]) -> None:
        """The body of a thread that makes a model leave for another one, which may stop wanting the place."""
        with self._lock:
            while slot.leases and is_wanted():
                self._clock.wait(slot.changed, None)
            if slot.state is not State.DRAINING or slot.stop_requested or slot.is_retiring:
                return
            if slot.leases or not is_wanted():
                self._serves_on(slot, State.READY)
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
        self.admission.nudge()
        slot.enter(resting)
        wanted, slot.start_wanted = slot.start_wanted, False
        if wanted and not slot.stop_requested:
            self.begin(slot)

    def resting_state(self, model_id: str) -> State:
        """A model whose files cannot be read is absent; its next start says why."""
        try:
            return State.STOPPED if self._backend.is_prepared(model_id) else State.ABSENT
        except (OrchestrarError, OSError):
            return State.ABSENT

    def _attempt(self, slot: Slot, attempt: Attempt) -> None:
        """The body of a start thread."""
        report = Report(self, self._lock, self._clock, slot, attempt)
        try:
            if attempt.adopts:
                self.admission.hold(slot, None)
            if attempt.only_prepares:
                self._starter.pull(slot.spec, report)
                self._attempt_prepared(slot, attempt)
            else:
                self._attempt_ready(slot, attempt, *self._starter.start(slot.spec, report))
        except NothingRuns:
            self._attempt_void(slot, attempt)
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
            slot.peak_bytes = max(slot.peak_bytes, attempt.peak_bytes)
            slot.start_s = now - attempt.started_at
            if attempt.admitted_at is not None:
                slot.reload_s = now - attempt.admitted_at
            slot.failures.became_ready()
            slot.was_lost = False
            attempt.done, slot.attempt = True, None
            slot.enter(State.READY)
            self.admission.nudge()
            self._on_ready()
        self._metrics.started(slot.spec.id, slot.start_s)
        told = ", ".join(f"{name.removesuffix('_s')} {took}" for name, took in phases.items())
        log.info("%s: ready on port %s after %.2f s (%s)", slot.spec.id, container.port, slot.start_s, told)

    def _attempt_void(self, slot: Slot, attempt: Attempt) -> None:
        """What was to be adopted had ended by then: no failure, and whoever waits begins a start of their own."""
        log.info("%s: its container ended before it was adopted", slot.spec.id)
        resting = self.resting_state(slot.spec.id)
        with self._lock:
            attempt.done, slot.attempt, slot.progress, slot.container = True, None, None, None
            self._settle(slot, resting)

    def _attempt_failed(self, slot: Slot, attempt: Attempt, error: OrchestrarError) -> None:
        resting = self.resting_state(slot.spec.id)
        is_left = attempt.cancelled and attempt.adopts
        may_run = is_left or isinstance(error, DockerError | DockerUnavailable | ModelPaused) or self._may_run(slot)
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
                error.details = with_retry_at(error.details, error.retry_after_s)
            attempt.error, attempt.done, slot.attempt = copy.copy(error), True, None
            slot.peak_bytes = max(slot.peak_bytes, attempt.peak_bytes)
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

    def _may_run(self, slot: Slot) -> bool:
        """Whether a container of it takes what is counted for it; somebody may have started another one meanwhile."""
        if slot.holds is None:
            return False
        try:
            found = self._backend.find(slot.spec.id)
        except (DockerError, DockerUnavailable):
            return True
        return found is not None and found.running

    def _end_container(self, model_id: str, ended: set[str]) -> None:
        """Stop by container id until nothing runs: by hand, another may have taken the place of the one we knew.

        Those that it has stopped are in `ended`, also when it raises.
        """
        for _ in range(STOP_TRIES):
            container = self._backend.find(model_id)
            if container is None or not container.running:
                return
            self._backend.stop(container.id, grace_s=TERM_GRACE_S)
            ended.add(container.id)
        raise DockerError(f"{model_id}: its containers come back as fast as they are stopped; look at `docker ps`")
