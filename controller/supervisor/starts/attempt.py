"""One start of a model as a value that its thread, its waiters and the model's record share."""

from __future__ import annotations

from dataclasses import dataclass

from controller.errors import OrchestrarError


@dataclass(eq=False)
class Attempt:
    """One start, or a preparation alone, shared by all requests that wait for it."""

    started_at: float
    only_prepares: bool = False
    adopts: bool = False
    is_unasked: bool = False
    preloads: bool = False
    admitted_at: float | None = None
    may_evict: bool = False
    is_prepared: bool = False
    container_id: str | None = None
    peak_bytes: int = 0
    cancelled: bool = False
    is_superseded: bool = False
    # Its end has claimed the model for the thread that superseded it.
    leaves_claim: bool = False
    is_over: bool = False
    error: OrchestrarError | None = None

    def allow_eviction(self) -> None:
        """Let the next look at the room evict other models: Docker answers, so they can be stopped."""
        self.may_evict = True

    def use_eviction(self) -> bool:
        """Tell whether other models may be evicted now; the next time needs a new permission."""
        may_evict, self.may_evict = self.may_evict, False
        return may_evict

    def runs_in(self, container_id: str) -> None:
        """Note the container that the start waits for."""
        self.container_id = container_id

    def sample(self, peak_bytes: int) -> None:
        """Note the largest sample of the container's working set so far."""
        self.peak_bytes = peak_bytes
