"""What others may see of a model, and what is told to a request whose time is up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from controller.docker.container import Container, Usage
from controller.errors import DeadlineExceeded, ModelPaused, ModelPreparing, OrchestrarError
from controller.registry import ModelSpec
from controller.supervisor.backend import PreparationProgress
from controller.supervisor.metrics import Gauges
from controller.supervisor.slot import Slot, State


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
    """The slot as others may see it; `now` is monotonic, `port` the one it gets at its next start."""
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
    """The slot for the metrics."""
    return Gauges(
        state=slot.state.value,
        in_flight=slot.leases,
        waiting=len(slot.queue),
        memory_bytes=None if slot.usage is None else slot.usage.memory_bytes,
        counted_bytes=None if slot.holds is None else slot.holds.memory_bytes,
    )


def paused_by_hand(container: Container) -> ModelPaused:
    """What to tell whoever wants a model that somebody has paused."""
    return ModelPaused(
        f"{container.model_id} is paused by hand; `docker unpause {container.name}` lets it go on", retry_after_s=10.0
    )


def too_late(slot: Slot, now: float) -> OrchestrarError:
    """What to tell a request whose time is up; `now` is monotonic."""
    if slot.state is State.PREPARING:
        done = slot.progress.fraction if slot.progress else None
        percent = None if done is None else round(100 * done)
        return ModelPreparing(
            f"{slot.spec.id} is being prepared ({slot.progress.phase if slot.progress else 'downloading'}"
            f"{'' if percent is None else f', {percent} %'}); it goes on in the background, try again soon",
            retry_after_s=_rest_s(done, now - slot.phase_began_at),
            details={"percent": percent},
        )
    if slot.state is State.READY:
        return DeadlineExceeded(
            f"{slot.spec.id} is busy: {slot.leases} requests in flight and {len(slot.queue)} waiting; try again later"
        )
    if slot.waits_for:
        return DeadlineExceeded(
            f"{slot.spec.id} got no memory in time: {', '.join(slot.waits_for)} holds it; GET /plan?model_id="
            f"{slot.spec.id} explains, and `max_wait` in models.yaml is how long a request waits"
        )
    return DeadlineExceeded(
        f"{slot.spec.id} was not ready in time (it is {slot.state.value}); it goes on, and `max_wait` in models.yaml "
        "is how long a request waits"
    )


def _rest_s(done: float | None, took_s: float) -> float:
    """How long the rest takes when a part of it took so long; 1 to 60 s, and 10 s where that cannot be told."""
    return 10.0 if not done else min(max(took_s * (1 - done) / done, 1.0), 60.0)
