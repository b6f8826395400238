"""Who uses a model next: first come, first served, and the model started first where needed."""

from __future__ import annotations

import copy

from controller.errors import BackingOff, Cancelled, ModelStopping, Overloaded
from controller.supervisor.clock import Clock
from controller.supervisor.lifecycle import Lifecycle
from controller.supervisor.slot import RESTING, CancelToken, Slot, State, shutting_down
from controller.supervisor.view import paused_by_hand, too_late


class LeaseQueue:
    """The queues of all models; every method runs with the supervisor's lock held."""

    def __init__(self, life: Lifecycle, clock: Clock) -> None:
        self._life = life
        self._clock = clock

    def take(self, slot: Slot, begun: float, deadline: float, token: CancelToken | None) -> float:
        """Wait for a turn and count it as a lease; returns when (monotonic) the model was ready, `begun` if it is.

        Raises as `Supervisor.acquire` says.
        """
        ticket = self._queue_up(slot)
        try:
            ready_at = self._await_turn(slot, ticket, deadline, token, begun if slot.state is State.READY else None)
            slot.leases += 1
            return ready_at
        finally:
            slot.queue.remove(ticket)
            slot.changed.notify_all()

    def _queue_up(self, slot: Slot) -> object:
        """A place in the model's queue. Raises Overloaded when it is full."""
        refuse_while_stopping(slot, self._clock.monotonic())
        if slot.leases + len(slot.queue) >= slot.spec.max_concurrency + slot.spec.max_queue:
            raise Overloaded(
                f"{slot.spec.id} has {slot.leases} requests in flight and {len(slot.queue)} waiting, which is all it "
                "takes; try again soon, or raise max_queue in models.yaml",
                retry_after_s=queue_s(slot, self._clock.monotonic()),
            )
        ticket = object()
        slot.queue.append(ticket)
        return ticket

    def _await_turn(
        self, slot: Slot, ticket: object, deadline: float, token: CancelToken | None, ready_at: float | None
    ) -> float:
        """Wait until the model is ready and this ticket is next; returns when (monotonic) the model was ready."""
        while True:
            if self._life.is_closing:
                raise shutting_down()
            refuse_while_stopping(slot, self._clock.monotonic())
            refuse_while_paused(slot)
            if slot.state in RESTING:
                refuse_while_backing_off(slot, self._clock.monotonic())
                self._life.begin(slot)
            if slot.state is State.READY:
                ready_at = self._clock.monotonic() if ready_at is None else ready_at
                if slot.admits(ticket):
                    return ready_at
            self._await_change(slot, deadline, token)

    def _await_change(self, slot: Slot, deadline: float, token: CancelToken | None) -> None:
        """Wait for the slot to change; raises when time is up, the client has left, or the shared start failed."""
        if token is not None and token.cancelled:
            raise Cancelled("the client has left")
        attempt = slot.attempt
        left_s = deadline - self._clock.monotonic()
        if left_s <= 0:
            raise too_late(slot, self._clock.monotonic())
        self._clock.wait(slot.changed, left_s)
        if attempt is not None and attempt.done and attempt.error is not None and not attempt.superseded:
            # Each waiter raises its own: one exception raised by many would hold all their frames.
            raise copy.copy(attempt.error)


def refuse_while_backing_off(slot: Slot, now: float) -> None:
    """Raise BackingOff while the model is left alone after failures; `now` is monotonic."""
    left_s = slot.failures.retry_in_s(now)
    if left_s > 0:
        why = slot.error.message if slot.error else "it ended"
        raise BackingOff(
            f"{slot.spec.id} failed {slot.failures.in_a_row} times in a row and is left alone for {left_s:.0f} s more; "
            f"POST /run tries at once. The last time: {why}",
            details={**(slot.error.details if slot.error else {}), "retry_in_s": round(left_s, 1)},
            retry_after_s=left_s,
        )


def queue_s(slot: Slot, now: float) -> float:
    """How long it takes until those who wait now have been served, as far as that can be told; 1 to 60 s."""
    start_s = 0.0
    if slot.attempt is not None and slot.reload_s is not None:
        start_s = max(slot.reload_s - (now - slot.attempt.started_at), 0.0)
    served_s = (slot.service_s or 0.0) * len(slot.queue) / slot.spec.max_concurrency
    return min(max(start_s + served_s, 1.0), 60.0)


def refuse_while_stopping(slot: Slot, now: float) -> None:
    """Raise ModelStopping while somebody's stop, or deletion, is under way; `now` is monotonic."""
    if slot.stop_requested:
        draining_s = slot.drains_until - now if slot.leases else 0.0
        raise ModelStopping(
            f"{slot.spec.id} is being stopped; requests after that start it again", retry_after_s=max(draining_s, 1.0)
        )


def refuse_while_paused(slot: Slot) -> None:
    """Raise ModelPaused while its container is paused by hand: we let nobody's container go on."""
    if slot.state is State.PAUSED and slot.container is not None:
        raise paused_by_hand(slot.container)
