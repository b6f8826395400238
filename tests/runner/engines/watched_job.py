"""A job that reports when its consumer sleeps."""

from __future__ import annotations

import threading

from runner.engine import EncodedRequest, Sampling
from runner.engines.job import Job


class WatchedJob(Job):
    """Each permit of `asleep` is one sleep; a piece put after taking it finds the consumer waiting."""

    def __init__(self) -> None:
        sampling = Sampling(max_tokens=100, temperature=0, top_p=1, top_k=0)
        super().__init__(EncodedRequest(prompt_tokens=(1,), sampling=sampling))
        self.asleep = threading.Semaphore(0)
        self._condition = _Condition(self.asleep)

    def holding(self) -> threading.Condition:
        """Return a context in which a woken consumer cannot run yet."""
        return self._condition


class _Condition(threading.Condition):
    def __init__(self, asleep: threading.Semaphore) -> None:
        super().__init__()
        self._asleep = asleep

    def wait(self, timeout: float | None = None) -> bool:
        # A thread that takes the permit cannot take the lock before the wait has begun.
        self._asleep.release()
        return super().wait(timeout)
