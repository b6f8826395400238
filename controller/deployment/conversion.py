"""Runs a model's prepare service: a container that converts its files and reports on stdout how far it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from controller.deployment.conversion_failure import preparation_failure
from controller.deployment.conversion_log import last_object
from controller.docker.container import Container
from controller.docker.service import DockerService
from controller.errors import Cancelled, PreparationFailed
from controller.supervisor.backend import OnProgress, PreparationProgress
from controller.supervisor.failures.card import failure_card

POLL_S = 0.5
LOG_LINES = 20
# A conversion reports its progress; one that is silent for so long is stuck.
MAX_SILENCE_S = 3600.0


class Clock(Protocol):
    """The part of the `time` module that waiting for a container needs."""

    def sleep(self, seconds: float, /) -> None: ...


class Conversion:
    """Blocks on Docker. One at a time for each model: the caller holds the model's lock."""

    def __init__(self, docker: DockerService, clock: Clock) -> None:
        self._docker = docker
        self._clock = clock

    def run(
        self, model_id: str, service: str, on_progress: OnProgress, cancelled: Callable[[], bool]
    ) -> dict[str, Any]:
        """Run the service to its end, remove its container and return its report.

        Raises ModelUnfit or PreparationFailed with the container's own sentence, Cancelled, or a Docker error.
        """
        for predecessor in self._docker.preparations(model_id):
            self._docker.remove(predecessor.id)
        self._docker.up(service)
        (container,) = self._docker.preparations(model_id)
        try:
            return self._wait(container, on_progress, cancelled)
        finally:
            self._docker.remove(container.id)

    def _wait(self, container: Container, on_progress: OnProgress, cancelled: Callable[[], bool]) -> dict[str, Any]:
        """Poll until the container ends; return its report. A model is prepared once, so polling is cheap enough."""
        last_lines: list[str] = []
        silent_s = 0.0
        while True:
            state = self._docker.inspect(container.id)
            lines = self._docker.logs(container.id, tail=LOG_LINES)
            if state is None:
                raise PreparationFailed(f"the container that prepares {container.model_id} was removed; try again")
            if not state.running and state.status != "created":
                break
            if cancelled():
                raise Cancelled(f"preparing {container.model_id} was cancelled")
            silent_s, last_lines = (silent_s + POLL_S if lines == last_lines else 0.0), lines
            if silent_s >= MAX_SILENCE_S:
                raise PreparationFailed(
                    f"preparing {container.model_id} wrote nothing for {silent_s:.0f} s and was stopped; try again",
                    details=failure_card("preparing", state, log=lines).as_details(),
                )
            on_progress(_progress(lines))
            self._clock.sleep(POLL_S)
        if state.exit_code != 0:
            raise preparation_failure(state, lines)
        report = last_object(lines)
        if "weights_bytes" not in report:
            raise PreparationFailed(
                f"preparing {container.model_id} ended without a report of its result; try again",
                details=failure_card("preparing", state, log=lines).as_details(),
            )
        return report


def _progress(lines: list[str]) -> PreparationProgress:
    report = last_object(lines)
    fraction = report.get("fraction")
    return PreparationProgress(
        phase=str(report.get("phase", "converting")), fraction=fraction if isinstance(fraction, float) else None
    )
