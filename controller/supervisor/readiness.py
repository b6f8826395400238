"""The answer to "does this model serve yet?", shared by the one who asks (proxy) and the one who waits (supervisor)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Readiness:
    """One look at a model's /health, or its like: `refused` means that nobody listens on its port, `broken` that the
    connection ended without an answer (so Docker's own listener does for a server that does not listen), `silent` that
    its answer did not come in time.

    `phase` is what it does while it loads, `phases` the seconds each took once it is ready; only our runner tells them.
    """

    ready: bool
    refused: bool = False
    broken: bool = False
    silent: bool = False
    phase: str = ""
    phases: dict[str, Any] = field(default_factory=dict)

    @property
    def answered(self) -> bool:
        """Whether anything came back, of whatever meaning."""
        return not (self.refused or self.broken or self.silent)
