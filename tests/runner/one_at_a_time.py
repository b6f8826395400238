"""Runs the fake engine's generations, which are iterators, on one thread: first come, first served."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator

from runner.engine import EncodedRequest, EngineError, Piece, PieceReceiver

log = logging.getLogger("runner")

Generate = Callable[[EncodedRequest, Callable[[], bool]], Iterator[Piece]]


class OneAtATime:
    """Gives a receiver what `generate` yields; its second argument tells it before each token whether to end."""

    def __init__(self, generate: Generate) -> None:
        self._generate = generate
        self._waiting: deque[tuple[EncodedRequest, PieceReceiver]] = deque()
        self._condition = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="generate", daemon=True)
        self._thread.start()

    def submit(self, request: EncodedRequest, receiver: PieceReceiver) -> None:
        """Put the request at the end of the queue; return at once."""
        with self._condition:
            if self._closed:
                raise EngineError("the engine is closed")
            self._waiting.append((request, receiver))
            self._condition.notify()

    def close(self) -> None:
        """Cancel waiting requests and let the running one finish."""
        with self._condition:
            self._closed = True
            for _, receiver in self._waiting:
                receiver.put(_CANCELLED)
            self._waiting.clear()
            self._condition.notify()
        self._thread.join()

    def _work(self) -> None:
        while (entry := self._next()) is not None:
            request, receiver = entry
            if receiver.is_cancelled():
                receiver.put(_CANCELLED)
            else:
                self._run(request, receiver)

    def _run(self, request: EncodedRequest, receiver: PieceReceiver) -> None:
        try:
            receiver.begin()
            for piece in self._generate(request, receiver.is_cancelled):
                receiver.put(piece)
        except Exception as error:  # A thread's outermost loop: one failed generation must not end the others.
            log.exception("generation failed")
            receiver.fail(EngineError(f"the engine failed while generating: {type(error).__name__}: {error}"))

    def _next(self) -> tuple[EncodedRequest, PieceReceiver] | None:
        with self._condition:
            while not self._waiting and not self._closed:
                self._condition.wait()
            return None if self._closed else self._waiting.popleft()


_CANCELLED = Piece(text="", completion_tokens=0, finish_reason="cancelled")
