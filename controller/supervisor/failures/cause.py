"""Why a container ended, from Docker's own evidence, and what would help, as errors with a failure card."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from controller.docker.container import Container
from controller.docker.endings import Ending
from controller.errors import ModelDied, StartFailed, StartInterrupted
from controller.supervisor.failures.card import failure_card
from controller.supervisor.failures.reason import reason_of
from controller.system.sizes import MIB

SERVING = "serving"
# 0, 128 + SIGKILL and 128 + SIGTERM: the exit codes after a stop, or after Docker itself ended.
ENDED_AS_BY_A_STOP = (0, 137, 143)


def start_failure(
    model_id: str, container: Container, ending: Ending, phase: str, log: list[str], peak_bytes: int | None
) -> StartFailed:
    """Return the error of a start whose container ended, with the failure card in its details.

    It is StartInterrupted if Docker ended the container on a user's order, which is no failure of the model.
    """
    container = replace(container, oom_killed=container.oom_killed or ending.oom)
    if ending.was_ordered:
        return StartInterrupted(
            f"{model_id} was stopped from outside while it started (`docker stop`, `kill` or the like); try again",
            details=failure_card(phase or "starting", container, log=log).as_details(),
        )
    what, fix = _explain(model_id, "starting", container, log, peak_bytes)
    card = failure_card(phase or "starting", container, log=log, fix=fix, peak_bytes=peak_bytes)
    return StartFailed(f"{what}; {fix}" if fix else what, details=card.as_details())


def death_of(
    model_id: str,
    container: Container,
    ending: Ending,
    logs: Callable[[Container], list[str]],
    peak_bytes: int | None,
) -> ModelDied | None:
    """Return what ended a container that served; None if a user stopped it, which is no failure.

    An end that looks like a stop counts as one if Docker's events do not say otherwise.
    """
    container = replace(container, oom_killed=container.oom_killed or ending.oom)
    looks_stopped = not container.oom_killed and container.exit_code in ENDED_AS_BY_A_STOP
    if ending.was_ordered or (looks_stopped and not ending.is_known):
        return None
    log = logs(container)
    what, fix = _explain(model_id, SERVING, container, log, peak_bytes)
    card = failure_card("serving", container, log=log, fix=fix, peak_bytes=peak_bytes)
    return ModelDied(f"{what}; {fix}" if fix else what, details=card.as_details())


def _explain(
    model_id: str, doing: str, container: Container, log: list[str], peak_bytes: int | None
) -> tuple[str, str]:
    """Return what happened, and the fix if there is an obvious one."""
    if not container.oom_killed:
        reason = reason_of(log, was_serving=doing == SERVING) or container.error or "it wrote nothing"
        return f"{model_id} ended while {doing} (exit code {container.exit_code}): {reason}", ""
    limit = f"{container.memory_limit_bytes // MIB}m"
    # Samples miss memory that is taken at once: the largest may lie far below the limit at which the kernel ended it.
    peak = f" (the largest sample of its use was {peak_bytes // MIB}m)" if peak_bytes else ""
    fix = f"raise its resources.memory above {limit} in models.yaml{peak}"
    return f"{model_id} ran out of memory while {doing}, at its limit of {limit}", fix
