"""What the API and the metrics show of a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from controller.docker.container import Container, Usage
from controller.errors import OrchestrarError
from controller.registry import ModelSpec
from controller.supervisor.backend import PreparationProgress
from controller.supervisor.metrics import Gauges
from controller.supervisor.slot import Slot
from controller.supervisor.states import State


@dataclass(frozen=True, kw_only=True)
class ModelView:
    """What the API shows of a model."""

    spec: ModelSpec
    state: State
    port: int
    container: Container | None
    in_flight: int
    waiting: int
    uptime_s: float | None
    last_used_s_ago: float | None
    idle_timeout_s: float | None
    idle_stop_in_s: float | None
    start_s: float | None
    phases: dict[str, Any]
    progress: PreparationProgress | None
    error: OrchestrarError | None
    usage: Usage | None
    drifted: bool
    holds_bytes: int | None
    waits_for: tuple[str, ...]
    failures: int
    retry_in_s: float | None


def view_of(slot: Slot, now: float, port: int) -> ModelView:
    """Return the slot as the API shows it; `now` is monotonic, `port` the one of its next start."""
    deadline = slot.idle_deadline()
    return ModelView(
        spec=slot.spec,
        state=slot.state,
        port=(slot.container.port if slot.container else None) or port,
        container=slot.container,
        in_flight=slot.leases,
        waiting=len(slot.queue),
        uptime_s=None if slot.ready_at is None else now - slot.ready_at,
        last_used_s_ago=None if slot.used_at is None else now - slot.used_at,
        idle_timeout_s=slot.idle_timeout_s(),
        idle_stop_in_s=None if deadline is None else max(deadline - now, 0.0),
        start_s=slot.start_s,
        phases=dict(slot.phases),
        progress=slot.progress,
        error=slot.error,
        usage=slot.usage,
        drifted=slot.drifted,
        holds_bytes=None if slot.holds is None else slot.holds.memory_bytes,
        waits_for=slot.waits_for,
        failures=slot.failures.in_a_row,
        retry_in_s=slot.failures.retry_in_s(now) or None,
    )


def gauges_of(slot: Slot) -> Gauges:
    """Return the slot as the metrics show it."""
    return Gauges(
        state=slot.state.value,
        in_flight=slot.leases,
        waiting=len(slot.queue),
        memory_bytes=None if slot.usage is None else slot.usage.memory_bytes,
        counted_bytes=None if slot.holds is None else slot.holds.memory_bytes,
    )
