"""Why a container ended, from Docker's own evidence, and what would help, in words."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone

from controller.docker_service import Container
from controller.errors import ModelDied, StartFailed

MIB = 1024 * 1024
# 128 + SIGKILL and 128 + SIGTERM: what a stop by somebody's hand leaves, unless Docker saw the memory run out.
ENDED_BY_SIGNAL = (137, 143)


def start_failure(
    model_id: str, container: Container, phase: str, log: list[str], peak_bytes: int | None
) -> StartFailed:
    """A start that ended with its container, with the failure card in its details."""
    what, fix = _told(model_id, "starting", container, log, peak_bytes)
    return StartFailed(
        f"{what}; {fix}" if fix else what, details=container.card(phase or "starting", log, fix, peak_bytes)
    )


def death_of(
    model_id: str, container: Container, logs: Callable[[Container], list[str]], peak_bytes: int | None
) -> ModelDied | None:
    """What ended a container that served; None when somebody stopped it, which is no failure."""
    if not container.oom_killed and container.exit_code in (0, *ENDED_BY_SIGNAL):
        return None
    log = logs(container)
    what, fix = _told(model_id, "serving", container, log, peak_bytes)
    return ModelDied(f"{what}; {fix}" if fix else what, details=container.card("serving", log, fix, peak_bytes))


def retry_at(after_s: float) -> str:
    """When that is, in UTC and whole seconds, for people; nothing is decided by it."""
    return (datetime.now(timezone.utc) + timedelta(seconds=after_s)).isoformat(timespec="seconds")


def _told(model_id: str, doing: str, container: Container, log: list[str], peak_bytes: int | None) -> tuple[str, str]:
    """What happened, and what would help."""
    if not container.oom_killed:
        last = next((line for line in reversed(log) if line.strip()), container.error or "it wrote nothing")
        return f"{model_id} ended while {doing} (exit code {container.exit_code}): {last}", ""
    limit = f"{container.memory_limit_bytes // MIB}m"
    seen = f": its peak was {peak_bytes // MIB}m" if peak_bytes else ""
    fix = f"raise its resources.memory above {limit} in models.yaml{seen}"
    return f"{model_id} ran out of memory while {doing}, at its limit of {limit}", fix
