"""The errors of requests that get no lease now, with the time after which they may try again."""

from __future__ import annotations

from controller.docker.container import Container
from controller.errors import (
    BackingOff,
    DeadlineExceeded,
    ModelPaused,
    ModelPreparing,
    ModelStopping,
    OrchestrarError,
    Overloaded,
    Unavailable,
)
from controller.supervisor.slot import Slot
from controller.supervisor.states import State


def shutting_down() -> Unavailable:
    """Return the error of a request that waits for something that the controller will not do any more."""
    return Unavailable("the controller is shutting down; try again when it is back", retry_after_s=5.0)


def paused_by_hand(container: Container) -> ModelPaused:
    """Return the error of a request for a model that a user has paused."""
    return ModelPaused(
        f"{container.model_id} is paused by hand; `docker unpause {container.name}` lets it go on", retry_after_s=10.0
    )


def queue_full(slot: Slot, now: float) -> Overloaded:
    """Return the error of a request for which the model's queue has no place."""
    return Overloaded(
        f"{slot.spec.id} has {slot.leases} requests in flight and {len(slot.queue)} waiting, which is all it takes; "
        "try again soon, or raise max_queue in models.yaml",
        retry_after_s=_queue_s(slot, now),
    )


def too_late(slot: Slot, now: float) -> OrchestrarError:
    """Return the error of a request whose time is up; `now` is monotonic."""
    if slot.state is State.PREPARING:
        fraction = slot.progress.fraction if slot.progress else None
        percent = None if fraction is None else round(100 * fraction)
        return ModelPreparing(
            f"{slot.spec.id} is being prepared ({slot.progress.phase if slot.progress else 'downloading'}"
            f"{'' if percent is None else f', {percent} %'}); it goes on in the background, try again soon",
            retry_after_s=_remaining_s(fraction, now - slot.phase_began_at),
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


def refuse_while_backing_off(slot: Slot, now: float) -> None:
    """Raise BackingOff while the model is left alone after failures; `now` is monotonic."""
    left_s = slot.failures.retry_in_s(now)
    if left_s > 0:
        reason = slot.error.message if slot.error else "it ended"
        raise BackingOff(
            f"{slot.spec.id} failed {slot.failures.in_a_row} times in a row and is left alone for {left_s:.0f} s more; "
            f"POST /run tries at once. The last failure: {reason}",
            details={**(slot.error.details if slot.error else {}), "retry_in_s": round(left_s, 1)},
            retry_after_s=left_s,
        )


def refuse_while_stopping(slot: Slot, now: float) -> None:
    """Raise ModelStopping while a user's stop or deletion, or a reload, keeps requests out; `now` is monotonic."""
    if slot.stop_requested:
        draining_s = slot.drains_until - now if slot.leases else 0.0
        raise ModelStopping(
            f"{slot.spec.id} is being stopped; requests after that start it again", retry_after_s=max(draining_s, 1.0)
        )


def refuse_while_paused(slot: Slot) -> None:
    """Raise ModelPaused if a user paused the container; we never unpause it ourselves."""
    if slot.state is State.PAUSED and slot.container is not None:
        raise paused_by_hand(slot.container)


def _queue_s(slot: Slot, now: float) -> float:
    """Estimate how long it takes until the requests that wait now are served; 1 to 60 s."""
    start_s = 0.0
    if slot.attempt is not None and slot.reload_s is not None:
        start_s = max(slot.reload_s - (now - slot.attempt.started_at), 0.0)
    served_s = (slot.service_s or 0.0) * len(slot.queue) / slot.spec.max_concurrency
    return min(max(start_s + served_s, 1.0), 60.0)


def _remaining_s(fraction: float | None, took_s: float) -> float:
    """Estimate how long the rest takes if a part took so long; 1 to 60 s, and 10 s if the part is not known."""
    return 10.0 if not fraction else min(max(took_s * (1 - fraction) / fraction, 1.0), 60.0)
