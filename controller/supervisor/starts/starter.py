"""One start from beginning to end, outside every lock: prepare, bring up or adopt, wait until the model answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from controller.docker.container import Container
from controller.errors import Cancelled, ImageMissing, StartFailed, StartInterrupted
from controller.registry import ModelSpec
from controller.supervisor.backend import Backend, PreparationProgress, Readiness
from controller.supervisor.clock import Clock
from controller.supervisor.failures.card import failure_card
from controller.supervisor.failures.cause import start_failure
from controller.supervisor.refusals import paused_by_hand
from controller.supervisor.starts.stall_timer import StallTimer

POLL_S = 0.05
LOOK_EVERY_S = 0.25
LOOK_ANYWAY_S = 1.0
# What the runner exits with if its volume holds no prepared model (EX_CONFIG of sysexits.h).
NOT_PREPARED_EXIT = 78


class NothingRuns(Exception):
    """The container to adopt has ended by now, which is no failure."""


class Reporter(Protocol):
    """How a start tells its supervisor how far it is, and asks whether it may go on."""

    @property
    def adopts(self) -> bool: ...

    @property
    def is_counted(self) -> bool: ...

    def nothing_runs(self) -> None: ...

    def admit(self) -> None: ...

    def prepares(self) -> None: ...

    def decides(self) -> None: ...

    def comes_up(self) -> None: ...

    def progresses(self, progress: PreparationProgress) -> None: ...

    def runs(self, container: Container) -> None: ...

    def sample(self, peak_bytes: int) -> None: ...

    def is_cancelled(self) -> bool: ...

    def is_closing(self) -> bool: ...

    def is_ending(self) -> bool: ...


class Starter:
    """Brings one model to the point where it answers. Raises OrchestrarErrors, and NothingRuns for an adoption."""

    def __init__(self, backend: Backend, probe: Callable[[int, str], Readiness], clock: Clock) -> None:
        self._backend = backend
        self._probe = probe
        self._clock = clock

    def start(self, spec: ModelSpec, reporter: Reporter) -> tuple[Container, dict[str, Any]]:
        """Return the running container, started by us or found running, and the seconds of each phase of its start.

        Of a container found running there are only the phases that it reports itself.
        """
        try:
            return self._bring_up(spec, reporter)
        except StartFailed as exc:
            if exc.details.get("exit_code") != NOT_PREPARED_EXIT:
                raise
        except ImageMissing as exc:
            if not exc.is_built_here:
                raise
        # The prepared volume was emptied or replaced without our knowledge, or an image of ours was removed or never
        # built: make them.
        self._prepare(spec, reporter, only_if_missing=False)
        reporter.admit()
        return self._up(spec, reporter, self._clock.monotonic())

    def pull(self, spec: ModelSpec, reporter: Reporter) -> None:
        """Make present whatever a start needs and is missing or outdated, the image included."""
        if reporter.is_counted and not self._find_running(spec.id):
            reporter.nothing_runs()
        reporter.prepares()
        try:
            self._backend.prepare(spec.id, reporter.progresses, lambda: reporter.is_cancelled() or reporter.is_ending())
        finally:
            reporter.decides()

    def _bring_up(self, spec: ModelSpec, reporter: Reporter) -> tuple[Container, dict[str, Any]]:
        if reporter.adopts or reporter.is_counted or not self._backend.is_prepared(spec.id):
            if (result := self._adopt(spec, reporter)) is not None:
                return result
            reporter.nothing_runs()
            if reporter.adopts:
                raise NothingRuns
            self._prepare(spec, reporter, only_if_missing=True)
        reporter.admit()
        asked_at = self._clock.monotonic()
        container = self._backend.resume(spec.id)
        if container is not None:
            reporter.comes_up()
            return self._await_start(spec, container, reporter, asked_at)
        return self._adopt(spec, reporter) or self._up(spec, reporter, asked_at)

    def _adopt(self, spec: ModelSpec, reporter: Reporter) -> tuple[Container, dict[str, Any]] | None:
        """Wait for a container that another process has started; None if there is none."""
        container = self._find_running(spec.id)
        if container is None:
            return None
        reporter.comes_up()
        return self._await_ready(spec, container, reporter)

    def _find_running(self, model_id: str) -> Container | None:
        container = self._backend.find(model_id)
        return container if container is not None and container.running else None

    def _prepare(self, spec: ModelSpec, reporter: Reporter, *, only_if_missing: bool) -> None:
        """Make the model's files, or only those that are missing."""
        if only_if_missing and self._backend.is_prepared(spec.id):
            return
        # Before gigabytes of weights are fetched: no start fetches an image, since an image is code.
        self._backend.require_image(spec.id)
        self.pull(spec, reporter)

    def _up(self, spec: ModelSpec, reporter: Reporter, asked_at: float) -> tuple[Container, dict[str, Any]]:
        reporter.comes_up()
        return self._await_start(spec, self._backend.up(spec.id), reporter, asked_at)

    def _await_start(
        self, spec: ModelSpec, container: Container, reporter: Reporter, asked_at: float
    ) -> tuple[Container, dict[str, Any]]:
        """Wait for a container that Docker was asked for at `asked_at`; time that no phase covers is its process's."""
        up_at = self._clock.monotonic()
        container, phases = self._await_ready(spec, container, reporter)
        phases_s = sum(value for value in phases.values() if isinstance(value, int | float))
        process_s = max(self._clock.monotonic() - up_at - phases_s, 0.0)
        return container, {"docker_s": round(up_at - asked_at, 3), "process_s": round(process_s, 3), **phases}

    def _await_ready(
        self, spec: ModelSpec, container: Container, reporter: Reporter
    ) -> tuple[Container, dict[str, Any]]:
        """Poll /health, racing the container's exit; `start_timeout` counts from the last sign of progress."""
        reporter.runs(container)
        signs = StallTimer(container, self._backend.logs, spec.start_timeout_s, self._clock.monotonic())
        looked_at = self._clock.monotonic()
        while True:
            if reporter.is_closing():
                raise Cancelled("the controller is shutting down; the model goes on starting")
            if reporter.is_cancelled():
                # Another process's container may be in use: the thread that cancelled drains and stops it.
                if not reporter.adopts:
                    self._backend.stop(container.id, grace_s=0)
                raise Cancelled(f"the start of {spec.id} was cancelled by a stop")
            health = self._look(container)
            now = self._clock.monotonic()
            if health.ready:
                self._sample(container, signs, reporter, now)
                return container, health.phases
            signs.phase(health.phase, now)
            if now - looked_at >= (LOOK_EVERY_S if health.is_refused else LOOK_ANYWAY_S):
                looked_at = now
                self._sample(container, signs, reporter, now)
                container = self._require_running(spec, container, signs)
                signs.log(now)
            if signs.are_missing(now):
                self._give_up(spec, container, signs)
            self._clock.sleep(POLL_S)

    def _sample(self, container: Container, signs: StallTimer, reporter: Reporter, now: float) -> None:
        signs.memory(self._backend.working_set(container.id), now)
        reporter.sample(signs.peak_bytes)

    def _look(self, container: Container) -> Readiness:
        if container.port is None:
            return Readiness(ready=False, is_refused=True)
        return self._probe(container.port, container.ready_path)

    def _require_running(self, spec: ModelSpec, container: Container, signs: StallTimer) -> Container:
        """Return the container as it is now; raises if it does not run any more."""
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
            "see in its last log lines (details.log) what it was doing; if it is only slow, raise its start_timeout "
            f"above {spec.start_timeout_s:g}s in models.yaml"
        )
        card = failure_card(phase, container, log=log, fix=fix, peak_bytes=signs.peak_bytes)
        raise StartFailed(
            f"{spec.id} made no progress for {spec.start_timeout_s:g} s while {phase} and was stopped; {fix}",
            details=card.as_details(),
        )
