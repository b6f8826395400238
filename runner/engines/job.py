"""One generation, shared by the engine's thread, which makes it, and the thread that sends the answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from runner.engine import EncodedRequest, EngineError, FinishReason, Piece

# Sends a text; False if not all of it went out, and the waiting thread has to help.
TextCallback = Callable[[str], bool]


class GenerationFailed(EngineError):
    """The engine failed in the middle of its work."""


class Job:
    """A `runner.engine.PieceReceiver` that keeps its pieces for `next_piece`. Any thread may call `cancel`."""

    def __init__(self, request: EncodedRequest, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.request = request
        self.completion_tokens = 0
        self.finish_reason: FinishReason | None = None
        self.queue_s: float | None = None
        self.ttft_s: float | None = None
        self._clock = clock
        self._submitted_s = clock()
        self._condition = threading.Condition()
        self._texts: list[str] = []
        self._failure: EngineError | None = None
        self._on_text: TextCallback | None = None

    def begin(self) -> None:
        self.queue_s = self.elapsed_s()

    def put(self, piece: Piece) -> None:
        with self._condition:
            if self._is_over():
                return
            self.completion_tokens = piece.completion_tokens
            if self.ttft_s is None and piece.completion_tokens:
                self.ttft_s = self.elapsed_s()
            self.finish_reason = piece.finish_reason
            if piece.finish_reason is None and self._on_text is not None:
                if self._on_text(piece.text):
                    return
                # Later texts may come before the woken thread runs: it must first send what is left of this one.
                self._on_text = None
            else:
                self._texts.append(piece.text)
            self._condition.notify()

    def fail(self, error: EngineError) -> None:
        with self._condition:
            if not self._is_over():
                self._failure = error
                self._condition.notify()

    def cancel(self) -> None:
        """End the generation before its next token, or at once if it still waits."""
        self.put(Piece(text="", completion_tokens=self.completion_tokens, finish_reason="cancelled"))

    def is_cancelled(self) -> bool:
        return self.finish_reason == "cancelled"

    def next_piece(self, timeout_s: float | None = None, on_text: TextCallback | None = None) -> Piece | None:
        """Wait for text and take all there is; return None if none came in time. Raises GenerationFailed.

        During the wait, the engine's thread calls `on_text` with each text but the last; it must not block. The wait
        ends only once it returns False.
        """
        with self._condition:
            if not self._texts and not self._is_over():
                self._on_text = on_text
                is_woken = self._condition.wait(timeout_s)
                self._on_text = None
                if not is_woken and not self._texts and not self._is_over():
                    return None
            if self._failure is not None and not self._texts:
                raise GenerationFailed(str(self._failure)) from self._failure
            return Piece(
                text=self._take_text(), completion_tokens=self.completion_tokens, finish_reason=self.finish_reason
            )

    def whole_text(self) -> str:
        """Wait for the end without waking before it, and take all the text. Raises GenerationFailed."""
        with self._condition:
            self._on_text = self._keep
            self._condition.wait_for(self._is_over)
            if self._failure is not None:
                raise GenerationFailed(str(self._failure)) from self._failure
            return self._take_text()

    def outcome(self) -> str:
        """Tell how it ended, in a word: its finish reason or `failed`; `running` before the end."""
        return "failed" if self._failure is not None else self.finish_reason or "running"

    def elapsed_s(self) -> float:
        """Return the seconds since the job was created."""
        return self._clock() - self._submitted_s

    def _keep(self, text: str) -> bool:
        self._texts.append(text)
        return True

    def _take_text(self) -> str:
        text = "".join(self._texts)
        self._texts.clear()
        return text

    def _is_over(self) -> bool:
        return self.finish_reason is not None or self._failure is not None
