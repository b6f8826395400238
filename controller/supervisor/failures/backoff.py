"""How long a model that fails is left alone before the next try."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

FIRST_S = 1.0
LONGEST_S = 300.0
# Up to a fifth more or less, so that models that failed together do not come back together.
JITTER = 0.2
# A model that served this long before it died is in no crash loop.
PROVEN_S = 60.0


@dataclass(eq=False)
class Failures:
    """The failures of one model since its last success; times are monotonic. Guarded by the supervisor's lock."""

    starts: int = 0
    deaths: int = 0
    retry_at: float = 0.0

    @property
    def in_a_row(self) -> int:
        return self.starts + self.deaths

    def start_failed(self, now: float, jitter: Callable[[], float]) -> None:
        """Count a start that failed by the model's own fault."""
        self.starts += 1
        self.retry_at = now + delay_s(self.starts, jitter)

    def died(self, now: float, *, served_s: float, jitter: Callable[[], float]) -> None:
        """Count an end on its own after it was ready for `served_s`; the first one delays no request."""
        self.deaths = 1 if served_s >= PROVEN_S else self.deaths + 1
        self.retry_at = now + (delay_s(self.deaths - 1, jitter) if self.deaths > 1 else 0.0)

    def became_ready(self) -> None:
        """Forget failed starts: the model starts, so only further deaths can make a loop."""
        self.starts, self.retry_at = 0, 0.0

    def forgive(self) -> None:
        """Forget all failures: a user asked for another try, or changed the model's entry."""
        self.starts, self.deaths, self.retry_at = 0, 0, 0.0

    def retry_in_s(self, now: float) -> float:
        """Return how long the model is still left alone; 0 if it may be tried."""
        return max(self.retry_at - now, 0.0)


def delay_s(failures: int, jitter: Callable[[], float] = random.random) -> float:
    """Return 1 s after the first failure, doubled by each further one up to 5 min, give or take a fifth.

    `jitter` gives numbers from 0 to 1, evenly spread.
    """
    plain_s = min(FIRST_S * 2.0 ** min(failures - 1, 32), LONGEST_S)
    return plain_s * (1 - JITTER + 2 * JITTER * jitter())
