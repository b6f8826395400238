"""One start from beginning to end, outside every lock: prepare, bring up or adopt, wait until it answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from controller.docker.container import Container
from controller.errors import Cancelled, StartFailed, StartInterrupted
from controller.registry import ModelSpec
from controller.supervisor.backend import Backend, PreparationProgress, Readiness
from controller.supervisor.clock import Clock
from controller.supervisor.failures.card import failure_card
from controller.supervisor.failures.cause import start_failure
from controller.supervisor.slot import State
from controller.supervisor.starts.stall_timer import StallTimer
from controller.supervisor.view import paused_by_hand

POLL_S = 0.05
LOOK_EVERY_S = 0.25
LOOK_ANYWAY_S = 1.0
# What the runner exits with when its volume holds no prepared model (EX_CONFIG of sysexits.h).
NOT_PREPARED_EXIT = 78


class NothingRuns(Exception):
    """What was to be adopted has ended by now; that is nobody's failure."""


class Reporter(Protocol):
    """How a start tells its supervisor where it is."""

    @property
    def adopts(self) -> bool: ...

    @property
    def is_counted(self) -> bool: ...

    def nothing_runs(self) -> None: ...

    def admit(self) -> None: ...

    def runs(self, container: Container) -> None: ...

    def used(self, peak_bytes: int) -> None: ...

    def entered(self, state: State) -> None: ...

    def progressed(self, progress: PreparationProgress) -> None: ...

    def cancelled(self) -> bool: ...

    def closing(self) -> bool: ...

    def ending(self) -> bool: ...


class Starter:
    """Brings one model to the point where it answers. Raises OrchestrarErrors, and NothingRuns for an adoption."""

    def __init__(self, backend: Backend, probe: Callable[[int, str], Readiness], clock: Clock) -> None:
        self._backend = backend
        self._probe = probe
        self._clock = clock

    def start(self, spec: ModelSpec, reporter: Reporter) -> tuple[Container, dict[str, Any]]:
        """The running container, started by us or found running, and the seconds that the phases of its start took.

        Of one found running only what it reports itself.
        """
        try:
            return self._bring_up(spec, reporter)
        except StartFailed as exc:
            if exc.details.get("exit_code") != NOT_PREPARED_EXIT:
                raise
        # The prepared volume was emptied or made anew behind our back: make its content again.
        self._prepare(spec, reporter, only_if_missing=False)
        reporter.admit()
        return self._up(spec, reporter, self._clock.monotonic())

    def _bring_up(self, spec: ModelSpec, reporter: Reporter) -> tuple[Container, dict[str, Any]]:
        if reporter.adopts or reporter.is_counted or not self._backend.is_prepared(spec.id):
            if (running := self._running(spec, reporter)) is not None:
                return running
            reporter.nothing_runs()
            if reporter.adopts:
                raise NothingRuns
            self._prepare(spec, reporter, only_if_missing=True)
        reporter.admit()
        begun = self._clock.monotonic()
        resumed = self._backend.resume(spec.id)
        if resumed is not None:
            reporter.entered(State.STARTING)
            return self._started(spec, resumed, reporter, begun)
        return self._running(spec, reporter) or self._up(spec, reporter, begun)

    def _running(self, spec: ModelSpec, reporter: Reporter) -> tuple[Container, dict[str, Any]] | None:
        """The model as somebody else has started it, once it answers; None when it does not run."""
        found = self._runs(spec.id)
        if found is None:
            return None
        reporter.entered(State.STARTING)
        return self._wait(spec, found, reporter)

    def _runs(self, model_id: str) -> Container | None:
        found = self._backend.find(model_id)
        return found if found is not None and found.running else None

    def _prepare(self, spec: ModelSpec, reporter: Reporter, *, only_if_missing: bool) -> bool:
        """Make what is missing, or all; whether there was anything to do."""
        if only_if_missing and self._backend.is_prepared(spec.id):
            return False
        # Before gigabytes of weights are: no start fetches an image, since an image is code.
        self._backend.require_image(spec.id)
        self.pull(spec, reporter)
        return True

    def pull(self, spec: ModelSpec, reporter: Reporter) -> None:
        """Make present whatever a start needs and is not here, or not what it was; the image, too."""
        if reporter.is_counted and not self._runs(spec.id):
            reporter.nothing_runs()
        reporter.entered(State.PREPARING)
        self._backend.prepare(spec.id, reporter.progressed, lambda: reporter.cancelled() or reporter.ending())

    def _up(self, spec: ModelSpec, reporter: Reporter, begun: float) -> tuple[Container, dict[str, Any]]:
        reporter.entered(State.STARTING)
        return self._started(spec, self._backend.up(spec.id), reporter, begun)

    def _started(
        self, spec: ModelSpec, container: Container, reporter: Reporter, begun: float
    ) -> tuple[Container, dict[str, Any]]:
        """Wait for a container that Docker was asked for at `begun`; whatever it does not tell of is its process's."""
        up_at = self._clock.monotonic()
        container, told = self._wait(spec, container, reporter)
        told_s = sum(value for value in told.values() if isinstance(value, int | float))
        process_s = max(self._clock.monotonic() - up_at - told_s, 0.0)
        return container, {"docker_s": round(up_at - begun, 3), "process_s": round(process_s, 3), **told}

    def _wait(self, spec: ModelSpec, container: Container, reporter: Reporter) -> tuple[Container, dict[str, Any]]:
        """Poll /health, racing the container's exit; `start_timeout` counts from the last sign of progress."""
        reporter.runs(container)
        signs = StallTimer(container, self._backend.logs, spec.start_timeout_s, self._clock.monotonic())
        looked_at = self._clock.monotonic()
        while True:
            if reporter.closing():
                raise Cancelled("the controller is shutting down; the model goes on starting")
            if reporter.cancelled():
                # Somebody else's may be in use: whoever cancelled drains and stops it.
                if not reporter.adopts:
                    self._backend.stop(container.id, grace_s=0)
                raise Cancelled(f"the start of {spec.id} was cancelled by a stop")
            health = self._look(container)
            now = self._clock.monotonic()
            if health.ready:
                self._sample(container, signs, reporter, now)
                return container, health.phases
            signs.phase(health.phase, now)
            if now - looked_at >= (LOOK_EVERY_S if health.refused else LOOK_ANYWAY_S):
                looked_at = now
                self._sample(container, signs, reporter, now)
                container = self._still_running(spec, container, signs)
                signs.log(now)
            if signs.are_missing(now):
                self._give_up(spec, container, signs)
            self._clock.sleep(POLL_S)

    def _sample(self, container: Container, signs: StallTimer, reporter: Reporter, now: float) -> None:
        signs.memory(self._backend.working_set(container.id), now)
        reporter.used(signs.peak_bytes)

    def _look(self, container: Container) -> Readiness:
        if container.port is None:
            return Readiness(ready=False, refused=True)
        return self._probe(container.port, container.ready_path)

    def _still_running(self, spec: ModelSpec, container: Container, signs: StallTimer) -> Container:
        now = self._backend.inspect(container.id)
        if now is None:
            raise StartInterrupted(f"{spec.id}: its container was removed while it started; try again")
        if now.status == "paused":
            raise paused_by_hand(now)
        if not now.running:
            ending = self._backend.ending(now.id)
            log = self._backend.logs(now)
            raise start_failure(spec.id, now, ending, signs.last_phase, log, signs.peak_bytes or None)
        return now

    def _give_up(self, spec: ModelSpec, container: Container, signs: StallTimer) -> None:
        log = self._backend.logs(container)
        self._backend.stop(container.id, grace_s=0)
        phase = signs.last_phase or "starting"
        fix = (
            "see in its last log lines (details.log) what it was about; where it is only slow, raise its start_timeout "
            f"above {spec.start_timeout_s:g}s in models.yaml"
        )
        card = failure_card(phase, container, log=log, fix=fix, peak_bytes=signs.peak_bytes)
        raise StartFailed(
            f"{spec.id} made no progress for {spec.start_timeout_s:g} s while {phase} and was stopped; {fix}",
            details=card.as_details(),
        )
