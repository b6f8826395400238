"""Work that waits its turn on an engine: first come, first served."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Protocol

from runner.engine import Embedder


class Work(Protocol):
    """What waits in a queue for its turn on the engine."""

    def cancel(self) -> None: ...

    def is_cancelled(self) -> bool: ...

    def run(self, engine: Embedder) -> None:
        """Called by a queue's worker with the engine that the work was made for; never raises."""


class WorkQueue:
    """Runs work on as many threads as the engine has room for, in the order in which they came.

    `on_failure` gets the reason when the engine can serve no more, once for each job that met it.
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
            threading.Thread(target=self._work, name=f"turn-{index}", daemon=True) for index in range(concurrency)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, job: Work) -> None:
        """Puts it at the end of the queue; returns at once."""
        with self._condition:
            self._waiting.append(job)
            self._condition.notify()

    def close(self) -> None:
        """Cancels what waits and lets what runs come to its end."""
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
