"""A queue of work for an engine: first come, first served."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Protocol

from runner.engine import Embedder


class Work(Protocol):
    """A piece of work that waits in a queue for the engine."""

    def cancel(self) -> None:
        """End the work as soon as possible; any thread may call it."""

    def is_cancelled(self) -> bool:
        """Tell whether the work was cancelled."""

    def run(self, engine: Embedder) -> None:
        """Do the work on the engine; never raises. A worker of the queue calls it."""


class WorkQueue:
    """Runs work in order of arrival, on as many threads as the engine supports.

    `on_failure` gets the reason if the engine can no longer serve, once for each job that this affects.
    """

    def __init__(
        self, engine: Embedder, *, concurrency: int = 1, on_failure: Callable[[str], None] = lambda _reason: None
    ) -> None:
        self._engine = engine
        self._on_failure = on_failure
        self._waiting: deque[Work] = deque()
        self._condition = threading.Condition()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"work-{index}", daemon=True) for index in range(concurrency)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, job: Work) -> None:
        """Put a job at the end of the queue; return at once."""
        with self._condition:
            self._waiting.append(job)
            self._condition.notify()

    def close(self) -> None:
        """Cancel waiting jobs and let running ones finish."""
        with self._condition:
            self._closed = True
            for job in self._waiting:
                job.cancel()
            self._waiting.clear()
            self._condition.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while (job := self._next()) is not None:
            if not job.is_cancelled():
                job.run(self._engine)
                if (reason := self._engine.failure()) is not None:
                    self._on_failure(reason)

    def _next(self) -> Work | None:
        with self._condition:
            while not self._waiting and not self._closed:
                self._condition.wait()
            return None if self._closed else self._waiting.popleft()
