"""One model's lifecycle as values: its state, its lease, its start attempt, and what others may see of it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from controller.docker.container import Container, Usage
from controller.errors import OrchestrarError, Unavailable
from controller.registry import ModelSpec
from controller.supervisor.backend import Amount, PreparationProgress
from controller.supervisor.failures.backoff import Failures


class State(str, Enum):
    """Where a model is in `absent → preparing → stopped → starting → ready → draining → stopped`, `failed`, or `paused`
    by hand."""

    ABSENT = "absent"
    PREPARING = "preparing"
    STOPPED = "stopped"
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"
    PAUSED = "paused"


RESTING = frozenset({State.ABSENT, State.STOPPED, State.FAILED})


def shutting_down() -> Unavailable:
    """What to tell whoever waits for what will not come any more."""
    return Unavailable("the controller is shutting down; try again when it is back", retry_after_s=5.0)


class CancelToken:
    """Lets another thread (the one that watches clients' sockets) take a request out of whatever it waits for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[], None]] = []
        self._cancelled = False

    @property
    def cancelled(self) -> bool:
        """True for good once cancel() was called."""
        return self._cancelled

    def cancel(self) -> None:
        """Run what was registered, once, in the caller's thread."""
        with self._lock:
            self._cancelled = True
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()

    def on_cancel(self, callback: Callable[[], None]) -> None:
        """Register what ends the wait; runs at once when the token is cancelled already."""
        with self._lock:
            if not self._cancelled:
                self._callbacks.append(callback)
                return
        callback()


class Lease:
    """The right to use a ready model: it is not stopped for idleness while one is held. Release is idempotent."""

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
        self.start_s = start_s
        self.queue_s = queue_s
        # Of the time that its request may wait.
        self.left_s = left_s
        self._release: Callable[[float | None], None] | None = release

    def release(self, *, keep_alive_s: float | None = None) -> None:
        """Give it back; `keep_alive_s` replaces the idle timeout until another does, or the model stops.

        0 stops it as soon as nobody uses it, below 0 keeps it for ever; None changes nothing.
        """
        release, self._release = self._release, None
        if release is not None:
            release(keep_alive_s)


@dataclass(eq=False)
class Attempt:
    """One start, or a preparation alone, shared by all who wait for it."""

    started_at: float
    only_prepares: bool = False
    adopts: bool = False
    unasked: bool = False
    preloads: bool = False
    admitted_at: float | None = None
    may_evict: bool = False
    is_prepared: bool = False
    container_id: str | None = None
    peak_bytes: int = 0
    cancelled: bool = False
    superseded: bool = False
    done: bool = False
    error: OrchestrarError | None = None


@dataclass(eq=False)
class Slot:
    """The mutable record of one model; only the supervisor touches it, under its lock."""

    spec: ModelSpec
    changed: threading.Condition
    state: State = State.STOPPED
    container: Container | None = None
    holds: Amount | None = None
    waits_for: tuple[str, ...] = ()
    leases: int = 0
    service_s: float | None = None
    queue: list[object] = field(default_factory=list)
    attempt: Attempt | None = None
    stop_requested: bool = False
    is_retiring: bool = False
    # What it is again when its stop fails.
    claimed_as: State = State.STOPPED
    # Until when those in flight may end before it is stopped, monotonic.
    drains_until: float = 0.0
    start_wanted: bool = False
    was_lost: bool = False
    epoch: int = 0
    progress: PreparationProgress | None = None
    # When the phase began of which `progress` tells, monotonic.
    phase_began_at: float = 0.0
    error: OrchestrarError | None = None
    ready_at: float | None = None
    used_at: float | None = None
    start_s: float | None = None
    reload_s: float | None = None
    failures: Failures = field(default_factory=Failures)
    phases: dict[str, Any] = field(default_factory=dict)
    keep_alive_s: float | None = None
    stop_not_before: float = 0.0
    usage: Usage | None = None
    # The largest sample of its working set, of all runs since its entry was changed.
    peak_bytes: int = 0
    # A container that we end for a failure of its own, and how that is told.
    blame: tuple[str, str] | None = None
    drifted: bool = False

    def enter(self, state: State) -> None:
        """Change state and wake all who wait for a change."""
        self.state = state
        self.epoch += 1
        self.changed.notify_all()

    def admits(self, ticket: object) -> bool:
        """Whether the holder of this ticket is next and there is room: first come, first served."""
        return self.leases < self.spec.max_concurrency and self.queue[0] is ticket

    def idle_timeout_s(self) -> float | None:
        """How long it stays when nobody uses it: as the last request that said so wants it; None = for ever."""
        if self.keep_alive_s is None:
            return self.spec.idle_timeout_s or None
        return None if self.keep_alive_s < 0 else self.keep_alive_s

    def idle_deadline(self) -> float | None:
        """When it may be stopped for idleness, monotonic; None while it is used or waited for, or never."""
        timeout_s = self.idle_timeout_s()
        if self.state is not State.READY or self.leases or self.queue or timeout_s is None or self.used_at is None:
            return None
        return max(self.used_at + timeout_s, self.stop_not_before)
