"""Generations waiting their turn: first come, first served, each cancellable at any moment."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from runner.engine import EncodedRequest, Engine, FinishReason, Lifecycle, Piece

log = logging.getLogger("runner")


class GenerationFailed(Exception):
    """The engine broke down in the middle of its work."""


class Work(Protocol):
    """What waits in a queue for its turn on the engine."""

    def cancel(self) -> None: ...

    def is_cancelled(self) -> bool: ...

    def run(self, engine: Any) -> None:
        """Called by a queue's worker with the engine that the work was made for; never raises."""


class Job:
    """One generation as its consumer sees it. `cancel` may be called by any thread, any number of times."""

    def __init__(self, request: EncodedRequest, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.request = request
        self.completion_tokens = 0
        self.finish_reason: FinishReason | None = None
        self.queue_s: float | None = None
        self.ttft_s: float | None = None
        self._clock = clock
        self._submitted_s = clock()
        self._pieces: queue.SimpleQueue[Piece | GenerationFailed] = queue.SimpleQueue()
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        """Ends the generation before its next token, or its waiting at once."""
        if not self._cancelled.is_set():
            self._cancelled.set()
            self._pieces.put(Piece(text="", completion_tokens=self.completion_tokens, finish_reason="cancelled"))

    def is_cancelled(self) -> bool:
        return self._cancelled.is_set()

    def next_piece(self, timeout_s: float | None = None) -> Piece | None:
        """The next text, with all that has piled up since; None when none came in time. Raises GenerationFailed."""
        try:
            item = self._pieces.get(timeout=timeout_s)
        except queue.Empty:
            return None
        texts = []
        while True:
            if isinstance(item, GenerationFailed):
                raise item
            texts.append(item.text)
            self.completion_tokens = item.completion_tokens
            if item.finish_reason is not None:
                self.finish_reason = item.finish_reason
            if item.finish_reason is not None or self._pieces.empty():
                return Piece(text="".join(texts), completion_tokens=item.completion_tokens,
                             finish_reason=item.finish_reason)  # fmt: skip
            item = self._pieces.get()

    def elapsed_s(self) -> float:
        """Seconds since the job was made."""
        return self._clock() - self._submitted_s

    def run(self, engine: Engine) -> None:
        """Generates to the end. Called by a queue's worker; never raises."""
        self.queue_s = self.elapsed_s()
        try:
            for piece in engine.generate(self.request, self.is_cancelled):
                if self.ttft_s is None and piece.completion_tokens:
                    self.ttft_s = self.elapsed_s()
                self._pieces.put(piece)
        except Exception as error:  # A worker's outermost loop: one broken generation must not end the others.
            log.exception("generation failed")
            self._pieces.put(GenerationFailed(f"the engine failed while generating: {type(error).__name__}: {error}"))


class JobQueue:
    """Runs work on as many threads as the engine has room for, in the order in which they came.

    `on_failure` gets the reason when the engine can serve no more, once for each job that met it.
    """

    def __init__(
        self, engine: Lifecycle, *, concurrency: int = 1, on_failure: Callable[[str], None] = lambda _reason: None
    ) -> None:
        self._engine = engine
        self._on_failure = on_failure
        self._waiting: deque[Work] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"generate-{index}", daemon=True) for index in range(concurrency)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, job: Work) -> None:
        """Puts it at the end of the queue; returns at once."""
        with self._changed:
            self._waiting.append(job)
            self._changed.notify()

    def close(self) -> None:
        """Cancels what waits and lets what runs come to its end."""
        with self._changed:
            self._closed = True
            for job in self._waiting:
                job.cancel()
            self._waiting.clear()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while (job := self._next()) is not None:
            if not job.is_cancelled():
                job.run(self._engine)
                if (reason := self._engine.failure()) is not None:
                    self._on_failure(reason)

    def _next(self) -> Work | None:
        with self._changed:
            while not self._waiting and not self._closed:
                self._changed.wait()
            return None if self._closed else self._waiting.popleft()
