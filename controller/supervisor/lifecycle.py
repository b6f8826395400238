"""How one model goes from state to state: threads that start it, drain it and stop it."""

from __future__ import annotations

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
    OrchestrarError,
)
from controller.supervisor.backend import Backend, Readiness
from controller.supervisor.clock import Clock
from controller.supervisor.failures.card import with_retry_at
from controller.supervisor.memory.admission import Admission
from controller.supervisor.metrics import Metrics
from controller.supervisor.refusals import shutting_down
from controller.supervisor.slot import Slot
from controller.supervisor.starts.attempt import Attempt
from controller.supervisor.starts.report import Report
from controller.supervisor.starts.starter import NothingRuns, Starter
from controller.supervisor.states import State

log = logging.getLogger(__name__)

STOP_TRIES = 3
# How long a container has for its own SIGTERM after the grace of the requests in flight.
TERM_GRACE_S = 3
STOP_AGAIN_AFTER_S = 10.0


class Lifecycle:
    """Starts and stops of all models. `lock` is the supervisor's: `begin` runs with it held, all else without."""

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
        self.admission = Admission(slots, backend, clock, lock, self._make_room, metrics)
        self._starter = Starter(backend, probe, clock)
        self._clock = clock
        self._lock = lock
        self._on_ready = on_ready
        # is_ending: preparations end. is_closing: starts end, too, and their containers go on.
        self.is_ending = self.is_closing = False

    def close(self) -> None:
        """Let starts end by themselves; their containers go on."""
        self.is_ending = self.is_closing = True

    def begin(self, slot: Slot, *, only_prepares: bool = False, adopts: bool = False, preloads: bool = False) -> bool:
        """Begin the one start, preparation or adoption that all waiters share; False if the model does not rest."""
        if not slot.may_begin(adopts=adopts):
            return False
        attempt = Attempt(
            self._clock.monotonic(),
            only_prepares=only_prepares,
            adopts=adopts,
            is_unasked=not slot.queue,
            preloads=preloads,
        )

        def launch() -> None:
            name = f"{'prepare' if only_prepares else 'start'} {slot.spec.id}"
            # The thread waits for the lock that we hold; if the system gives us no thread, nothing has changed.
            threading.Thread(target=self._attempt, args=(slot, attempt), name=name, daemon=True).start()

        return slot.begin_attempt(attempt, launch)

    def cancel(self, slot: Slot, *, within_s: float) -> None:
        """End a start under way and wait until its thread has ended.

        Raises DockerTimeout if it is still in a Docker call by then; it ends when that call does.
        """
        with self._lock:
            attempt = slot.cancel_attempt()
            deadline = self._clock.monotonic() + within_s
            while attempt is not None and not attempt.is_over:
                if (left_s := deadline - self._clock.monotonic()) <= 0:
                    raise DockerTimeout(
                        f"{slot.spec.id}: its start waits for Docker, which does not answer; it will be cancelled when "
                        "Docker answers. Look at `docker info`."
                    )
                self._clock.wait(slot.on_change, left_s)

    def supersede(self, slot: Slot, attempt: Attempt) -> bool:
        """End a start whose entry has changed, unnoticed by the requests that wait, and claim the model for `retire`.

        False if it leaves no claim: it was over or superseded before, became ready all the same, or ended with us.
        """
        with self._lock:
            if not slot.supersede_attempt(attempt):
                return False
            while not attempt.is_over:
                self._clock.wait(slot.on_change, None)
            return attempt.leaves_claim

    def retire(
        self,
        slot: Slot,
        *,
        drain_s: float,
        is_claimed: bool = False,
        again_after_s: float = 0.0,
        before_rest: Callable[[], None] = lambda: None,
    ) -> None:
        """Drain the model, stop its container, and bring it to rest, from which it may start; `before_rest` may delay
        that.

        If that fails the model stays what it was, or rests if its container has ended and what else runs is not known;
        no model makes it leave again before `again_after_s`.

        One at a time: a second one under way would stop what was started after the first.
        """
        with self._lock:
            if not is_claimed:
                while slot.is_retiring:
                    self._clock.wait(slot.on_change, None)
                slot.claim()
            deadline = self._clock.monotonic() + drain_s
            slot.drain_until(deadline)
            while slot.leases and (left_s := deadline - self._clock.monotonic()) > 0:
                self._clock.wait(slot.on_change, left_s)
        stopped_ids: set[str] = set()
        try:
            self._stop_containers(slot.spec.id, stopped_ids)
        except BaseException:
            resting = self.resting_state(slot.spec.id)
            with self._lock:
                # Before it serves again: a start that waits for its memory would have it stopped at once otherwise.
                slot.postpone_stop(self._clock.monotonic() + again_after_s)
                if slot.stop_fails(resting=resting, is_gone=bool(stopped_ids)):
                    self._go_on_from_rest(slot)
            raise
        before_rest()
        resting = self.resting_state(slot.spec.id)
        with self._lock:
            slot.come_to_rest(resting)
            self._go_on_from_rest(slot)

    def decide(self, slot: Slot) -> None:
        """Note which engine the model's files have decided by now."""
        is_noted = False
        while not is_noted:
            entry = slot.entry
            spec = self._backend.decided(entry)
            with self._lock:
                # A reload may have replaced the entry meanwhile.
                is_noted = slot.decide_engine(entry, spec)

    def look_at_files(self, slot: Slot) -> None:
        """Note that the files of a model at rest changed; a container of it may still run."""
        self.decide(slot)
        resting = self.resting_state(slot.spec.id)
        with self._lock:
            slot.files_change(resting)

    def resting_state(self, model_id: str) -> State:
        """Return what the model is at rest; one whose files cannot be read is absent, and its next start says why."""
        try:
            return State.STOPPED if self._backend.is_prepared(model_id) else State.ABSENT
        except (OrchestrarError, OSError):
            return State.ABSENT

    def _go_on_from_rest(self, slot: Slot) -> None:
        self.admission.nudge()
        if slot.take_wanted_start():
            self.begin(slot)

    def _make_room(self, slot: Slot, is_wanted: Callable[[], bool]) -> None:
        """Stop a model for another one, which may stop wanting the place; the body of a thread."""
        with self._lock:
            while slot.leases and is_wanted():
                self._clock.wait(slot.on_change, None)
            if not slot.claim_to_make_room(is_wanted=is_wanted()):
                return
        try:
            self.retire(slot, drain_s=0, is_claimed=True, again_after_s=STOP_AGAIN_AFTER_S)
        except OrchestrarError as exc:
            log.warning("%s: could not be stopped to make room: %s", slot.spec.id, exc.message)
            with self._lock:
                self.admission.nudge()

    def _attempt(self, slot: Slot, attempt: Attempt) -> None:
        """Run one attempt from its beginning to its end; the body of a start thread."""
        report = Report(
            self.admission,
            self._lock,
            self._clock,
            slot,
            attempt,
            decide=lambda: self.decide(slot),
            is_ending=lambda: self.is_ending,
            is_closing=lambda: self.is_closing,
        )
        try:
            if attempt.adopts:
                self.admission.hold(slot, None)
            if attempt.only_prepares:
                self._starter.pull(slot.spec, report)
                self._attempt_prepared(slot)
            else:
                self._attempt_ready(slot, *self._starter.start(slot.spec, report))
        except NothingRuns:
            self._attempt_void(slot)
        except OrchestrarError as exc:
            self._attempt_failed(slot, attempt, exc)
        except Exception as exc:  # the thread's outermost code: waiters must hear of a fault of ours, too
            log.exception("%s: the start ended in a fault of the controller", slot.spec.id)
            if not attempt.is_over:
                self._attempt_failed(slot, attempt, OrchestrarError(f"the start of {slot.spec.id} failed: {exc!r}"))

    def _attempt_prepared(self, slot: Slot) -> None:
        resting = self.resting_state(slot.spec.id)
        with self._lock:
            slot.attempt_ends_prepared(resting)
            self._go_on_from_rest(slot)

    def _attempt_void(self, slot: Slot) -> None:
        """End an adoption that found nothing: no failure, and a request that waits begins a start of its own."""
        log.info("%s: its container ended before it was adopted", slot.spec.id)
        resting = self.resting_state(slot.spec.id)
        with self._lock:
            slot.attempt_finds_nothing(resting)
            self._go_on_from_rest(slot)

    def _attempt_ready(self, slot: Slot, container: Container, phases: dict[str, Any]) -> None:
        self.admission.hold(slot, container.memory_limit_bytes)
        self.decide(slot)  # `provision` may have prepared it meanwhile, in a process of its own.
        with self._lock:
            start_s = slot.attempt_becomes_ready(container, phases, self._clock.monotonic())
            self.admission.nudge()
            self._on_ready()
        self._metrics.count_start(slot.spec.id, start_s)
        parts = ", ".join(f"{name.removesuffix('_s')} {took}" for name, took in phases.items())
        log.info("%s: ready on port %s after %.2f s (%s)", slot.spec.id, container.port, start_s, parts)

    def _attempt_failed(self, slot: Slot, attempt: Attempt, error: OrchestrarError) -> None:
        resting = self.resting_state(slot.spec.id)
        may_run = (
            (attempt.cancelled and attempt.adopts)
            or isinstance(error, DockerError | DockerUnavailable | ModelPaused)
            or self._may_run(slot)
        )
        if attempt.is_superseded:
            error = ModelStopping(f"models.yaml changed {slot.spec.id} meanwhile; try again")
        elif attempt.cancelled:
            error = ModelStopping(f"{slot.spec.id} was stopped while it started; a new request starts it again")
        elif self.is_ending and isinstance(error, Cancelled):
            error = shutting_down()
        log.warning("%s: start failed: %s", slot.spec.id, error.message)
        self._metrics.count_failed_start(slot.spec.id, error.code)
        with self._lock:
            if error.backs_off:
                error.retry_after_s = slot.count_failed_start(self._clock.monotonic(), self._jitter)
                error.details = with_retry_at(error.details, error.retry_after_s)
            if slot.attempt_fails(error, resting=resting, may_run=may_run, is_closing=self.is_closing):
                self.admission.nudge()

    def _may_run(self, slot: Slot) -> bool:
        """Return whether a container of the model takes what is counted for it; a user may have started another one."""
        if slot.holds is None:
            return False
        try:
            container = self._backend.find(slot.spec.id)
        except (DockerError, DockerUnavailable):
            return True
        return container is not None and container.running

    def _stop_containers(self, model_id: str, stopped_ids: set[str]) -> None:
        """Stop by container id until nothing runs: a user may have replaced the container that we knew.

        The containers that it has stopped are in `stopped_ids`, also when it raises.
        """
        for _ in range(STOP_TRIES):
            container = self._backend.find(model_id)
            if container is None or not container.running:
                return
            self._backend.stop(container.id, grace_s=TERM_GRACE_S)
            stopped_ids.add(container.id)
        raise DockerError(f"{model_id}: its containers come back as fast as they are stopped; look at `docker ps`")
