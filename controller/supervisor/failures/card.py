"""The failure card: what is values about a model's failure, as the client gets it in an error's `details`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from controller.docker.container import Container


@dataclass(frozen=True, kw_only=True)
class FailureCard:
    """Docker's evidence of one failure, and the fix if it is values; None stands for what does not apply."""

    phase: str
    exit_code: int | None
    oom_killed: bool | None
    health: str | None
    memory_limit_bytes: int | None
    memory_peak_bytes: int | None
    log: tuple[str, ...]
    fix: str | None

    def as_details(self) -> dict[str, Any]:
        """Return the card as an error's `details`; what does not apply is left out."""
        values = {name: value for name, value in asdict(self).items() if value is not None}
        return {**values, "log": list(self.log)}


def failure_card(
    phase: str,
    container: Container | None = None,
    *,
    log: Sequence[str] = (),
    fix: str = "",
    peak_bytes: int | None = None,
) -> FailureCard:
    """Build the card of a failure in `phase`, with the evidence of its container if there was one.

    `peak_bytes` is the largest sample of the container's working set.
    """
    return FailureCard(
        phase=phase,
        # Docker shows 0 as the exit code of a container that still runs.
        exit_code=None if container is None or container.running else container.exit_code,
        oom_killed=None if container is None else container.oom_killed,
        health=None if container is None else container.health,
        memory_limit_bytes=(container.memory_limit_bytes or None) if container is not None else None,
        memory_peak_bytes=peak_bytes or None,
        log=tuple(log),
        fix=fix or None,
    )


def with_retry_at(details: Mapping[str, Any], after_s: float) -> dict[str, Any]:
    """Return an error's details with the time of the next try: UTC, in whole seconds, for people to read."""
    retry_at = datetime.now(UTC) + timedelta(seconds=after_s)
    return {**details, "retry_at": retry_at.isoformat(timespec="seconds")}
