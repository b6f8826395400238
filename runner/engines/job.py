"""One generation between the engine's thread, which makes it, and the thread that answers with it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from runner.engine import EncodedRequest, EngineError, FinishReason, Piece

Outlet = Callable[[str], bool]


class GenerationFailed(EngineError):
    """The engine broke down in the middle of its work."""


class Job:
    """See `runner.engine.Sink`: what comes is kept for `next_piece`. `cancel` may be called by any thread, any time."""

    def __init__(self, request: EncodedRequest, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.request = request
        self.completion_tokens = 0
        self.finish_reason: FinishReason | None = None
        self.queue_s: float | None = None
        self.ttft_s: float | None = None
        self._clock = clock
        self._submitted_s = clock()
        self._changed = threading.Condition()
        self._texts: list[str] = []
        self._failure: EngineError | None = None
        self._outlet: Outlet | None = None

    def begin(self) -> None:
        self.queue_s = self.elapsed_s()

    def put(self, piece: Piece) -> None:
        with self._changed:
            if self._is_over():
                return
            self.completion_tokens = piece.completion_tokens
            if self.ttft_s is None and piece.completion_tokens:
                self.ttft_s = self.elapsed_s()
            self.finish_reason = piece.finish_reason
            if piece.finish_reason is None and self._outlet is not None:
                if self._outlet(piece.text):
                    return
                # More may come before the one that waits, though woken, has its turn: it has what is left to send.
                self._outlet = None
            else:
                self._texts.append(piece.text)
            self._changed.notify()

    def fail(self, error: EngineError) -> None:
        with self._changed:
            if not self._is_over():
                self._failure = error
                self._changed.notify()

    def cancel(self) -> None:
        """Ends the generation before its next token, or its waiting at once."""
        self.put(Piece(text="", completion_tokens=self.completion_tokens, finish_reason="cancelled"))

    def is_cancelled(self) -> bool:
        return self.finish_reason == "cancelled"

    def next_piece(self, timeout_s: float | None = None, outlet: Outlet | None = None) -> Piece | None:
        """Waits for text and takes all there is; None when none came in time. Raises GenerationFailed.

        While it waits, `outlet` gets each text but the last on the engine's thread, where it may not block; only when
        it returns False does this return.
        """
        with self._changed:
            if not self._texts and not self._is_over():
                self._outlet = outlet
                is_woken = self._changed.wait(timeout_s)
                self._outlet = None
                if not is_woken and not self._texts and not self._is_over():
                    return None
            if self._failure is not None and not self._texts:
                raise GenerationFailed(str(self._failure)) from self._failure
            return Piece(text=self._taken(), completion_tokens=self.completion_tokens, finish_reason=self.finish_reason)

    def whole_text(self) -> str:
        """Waits for the end, in one sleep, and takes all the text. Raises GenerationFailed."""
        with self._changed:
            self._outlet = self._keep
            self._changed.wait_for(self._is_over)
            if self._failure is not None:
                raise GenerationFailed(str(self._failure)) from self._failure
            return self._taken()

    def outcome(self) -> str:
        """How it ended, in a word: its finish reason, or `failed`; `running` before that."""
        return "failed" if self._failure is not None else self.finish_reason or "running"

    def elapsed_s(self) -> float:
        """Seconds since the job was made."""
        return self._clock() - self._submitted_s

    def _keep(self, text: str) -> bool:
        self._texts.append(text)
        return True

    def _taken(self) -> str:
        text = "".join(self._texts)
        self._texts.clear()
        return text

    def _is_over(self) -> bool:
        return self.finish_reason is not None or self._failure is not None
