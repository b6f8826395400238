"""A model's state as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from controller.deployment.engines import Engine
from controller.supervisor import ModelView, Plan
from controller.supervisor.backend import Amount, PreparationProgress
from controller.supervisor.memory.placement import Holder


def seconds(value: float | None) -> float | None:
    """Round a time to the digits that mean something."""
    return None if value is None else round(value, 3)


def model_row(view: ModelView) -> dict[str, Any]:
    """Return a row of `GET /models`: the entry of models.yaml, and the state."""
    spec = view.spec
    return {
        "id": spec.id,
        "aliases": list(spec.aliases),
        "engine": _engine(view),
        "engine_reason": _engine_reason(view),
        "source": str(spec.source),
        "source_choice": spec.source_choice,
        "task": spec.task,
        "state": view.state.value,
        "port": view.port,
        "pinned": spec.pinned,
        "preload": spec.preload,
        "idle_timeout_s": spec.idle_timeout_s,
        "preparing": _preparing(view),
        "retry_in_s": seconds(view.retry_in_s),
        "error": _error(view),
    }


def status_row(view: ModelView, engines: Mapping[str, Engine]) -> dict[str, Any]:
    """Return a row of `GET /status`: what the model does now, what that takes, and how its hardening is relaxed."""
    container, engine = view.container, engines.get(_engine(view))
    return {
        "id": view.spec.id,
        "state": view.state.value,
        "engine": _engine(view),
        "engine_reason": _engine_reason(view),
        "source_choice": view.spec.source_choice,
        "port": view.port,
        "container": None if container is None else {"id": container.id[:12], "name": container.name},
        "uptime_s": seconds(view.uptime_s),
        "in_flight": view.in_flight,
        "waiting": view.waiting,
        "last_used_s_ago": seconds(view.last_used_s_ago),
        "idle_stop_in_s": seconds(view.idle_stop_in_s),
        "start_s": seconds(view.start_s),
        "start_phases": view.phases,
        "cpu_percent": None if view.usage is None else view.usage.cpu_percent,
        "memory_bytes": None if view.usage is None else view.usage.memory_bytes,
        "memory_counted_bytes": view.holds_bytes,
        "waits_for": list(view.waits_for),
        "failures": view.failures,
        "retry_in_s": seconds(view.retry_in_s),
        "memory_limit_bytes": None if container is None else container.memory_limit_bytes,
        "drift": view.drifted,
        "relaxed": [] if engine is None else engine.describe_relaxations(),
        "preparing": _preparing(view),
        "error": _error(view),
    }


def plan_body(plan: Plan) -> dict[str, Any]:
    """Return the answer to `GET /plan`."""
    placement = plan.placement
    return {
        "model_id": plan.model_id,
        "state": plan.state.value,
        "verdict": plan.verdict,
        "needs": _amount(plan.need),
        "budget": _amount(plan.room),
        "would_stop": [holder.model_id for holder in placement.victims],
        "not_before_s": seconds(placement.look_again_in_s),
        "waits_for": list(placement.waits_for),
        "held_by": [_holder_row(holder, plan) for holder in plan.holders],
    }


def _amount(amount: Amount) -> dict[str, Any]:
    return {"memory_bytes": amount.memory_bytes, "gpus": amount.gpus}


def _holder_row(holder: Holder, plan: Plan) -> dict[str, Any]:
    return {
        "model_id": holder.model_id,
        **_amount(holder.holds),
        "stays_because": plan.why_it_stays(holder),
        "idle_s": seconds(holder.idle_s),
        "reload_s": seconds(holder.reload_s),
    }


def pull_row(view: ModelView) -> dict[str, Any]:
    """Return the answer to a pull."""
    return {"model_id": view.spec.id, "state": view.state.value, "preparing": _preparing(view)}


def preparing(progress: PreparationProgress) -> dict[str, Any]:
    """Return how far a download or conversion is, as far as that is known."""
    percent = None if progress.fraction is None else round(100 * progress.fraction)
    return {"phase": progress.phase, "percent": percent, "done_bytes": progress.done_bytes}


def _engine(view: ModelView) -> str:
    """Return the engine that serves the model now; while none does, the one of its next start."""
    return (view.container.engine if view.container else "") or view.spec.engine


def _engine_reason(view: ModelView) -> str:
    if _engine(view) == view.spec.engine:
        return view.spec.engine_reason
    return f"it was started with it; its next start is with {view.spec.engine}: {view.spec.engine_reason}"


def _preparing(view: ModelView) -> dict[str, Any] | None:
    return None if view.progress is None else preparing(view.progress)


def _error(view: ModelView) -> dict[str, Any] | None:
    error = view.error
    return None if error is None else {"code": error.code, "message": error.message, "details": error.details}
