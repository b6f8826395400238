"""Leases: the right to use a model, given in the order in which requests came, after a start if the model needs one."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable

from controller.docker.container import Container
from controller.errors import Cancelled
from controller.supervisor.clock import Clock
from controller.supervisor.lifecycle import Lifecycle
from controller.supervisor.refusals import (
    queue_full,
    refuse_while_backing_off,
    refuse_while_paused,
    refuse_while_stopping,
    shutting_down,
    too_late,
)
from controller.supervisor.slot import Slot
from controller.supervisor.states import State


class CancelToken:
    """Lets another thread (the one that watches clients' sockets) end whatever a request waits for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[], None]] = []
        self._cancelled = False

    @property
    def cancelled(self) -> bool:
        """Return whether cancel() was called."""
        return self._cancelled

    def cancel(self) -> None:
        """Run the registered callbacks, once, in the caller's thread."""
        with self._lock:
            self._cancelled = True
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()

    def on_cancel(self, callback: Callable[[], None]) -> None:
        """Register what ends the wait; runs at once if the token is cancelled already."""
        with self._lock:
            if not self._cancelled:
                self._callbacks.append(callback)
                return
        callback()


class Lease:
    """The right to use a ready model, which is not stopped as idle while a lease is out. Release is idempotent."""

    def __init__(
        self,
        model_id: str,
        container: Container,
        *,
        start_s: float,
        queue_s: float,
        left_s: float,
        release: Callable[[float | None], None],
    ) -> None:
        self.model_id = model_id
        self.container_id = container.id
        self.port = container.port or 0
        self.engine = container.engine
        self.start_s = start_s
        self.queue_s = queue_s
        # Of the time that its request may wait.
        self.left_s = left_s
        self._release: Callable[[float | None], None] | None = release

    def release(self, *, keep_alive_s: float | None = None) -> None:
        """Return the lease; `keep_alive_s` replaces the idle timeout until another request does, or the model stops.

        0 stops the model as soon as no request uses it, below 0 keeps it for ever; None changes nothing.
        """
        release, self._release = self._release, None
        if release is not None:
            release(keep_alive_s)


class LeaseQueue:
    """The queues of all models; every method runs with the supervisor's lock held."""

    def __init__(self, life: Lifecycle, clock: Clock) -> None:
        self._life = life
        self._clock = clock

    def take(self, slot: Slot, asked_at: float, deadline: float, token: CancelToken | None) -> float:
        """Wait for a lease; returns when (monotonic) the model was ready, `asked_at` if it is ready now.

        Raises as `Supervisor.acquire` says.
        """
        if not self._life.is_closing and slot.take_free_lease():
            return asked_at
        refuse_while_stopping(slot, self._clock.monotonic())
        ticket = slot.queue_up()
        if ticket is None:
            raise queue_full(slot, self._clock.monotonic())
        try:
            return self._await_lease(slot, ticket, deadline, token, asked_at if slot.state is State.READY else None)
        finally:
            slot.leave_queue(ticket)

    def _await_lease(
        self, slot: Slot, ticket: object, deadline: float, token: CancelToken | None, ready_at: float | None
    ) -> float:
        while True:
            if self._life.is_closing:
                raise shutting_down()
            refuse_while_stopping(slot, self._clock.monotonic())
            refuse_while_paused(slot)
            refuse_while_backing_off(slot, self._clock.monotonic())
            self._life.begin(slot)
            if slot.state is State.READY:
                ready_at = self._clock.monotonic() if ready_at is None else ready_at
                if slot.take_lease(ticket):
                    return ready_at
            self._await_change(slot, deadline, token)

    def _await_change(self, slot: Slot, deadline: float, token: CancelToken | None) -> None:
        """Wait for the slot to change; raises if time is up, the client has left, or the shared start failed."""
        if token is not None and token.cancelled:
            raise Cancelled("the client has left")
        attempt = slot.attempt
        left_s = deadline - self._clock.monotonic()
        if left_s <= 0:
            raise too_late(slot, self._clock.monotonic())
        self._clock.wait(slot.on_change, left_s)
        if attempt is not None and attempt.error is not None and not attempt.is_superseded:
            # Each waiter raises its own: one exception raised by many threads would hold all their frames.
            raise copy.copy(attempt.error)
