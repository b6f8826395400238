"""Turns the tokens of one request into its pieces: ends of text, stop strings, whole characters."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from runner.engine import FinishReason, Piece
from runner.tokenizer.detokenizer import ByteDetokenizer, Detokenizer, StopStrings


class TokenText:
    """The text of one request. One thread feeds it, once for each step."""

    def __init__(
        self, detokenizer: Detokenizer | ByteDetokenizer, *, stop: Iterable[str], eos: Collection[int]
    ) -> None:
        self._detokenizer = detokenizer
        self._stops = StopStrings(stop)
        self._eos = eos
        self.count = 0
        """Tokens so far, those without text included."""

    def feed(self, tokens: Iterable[int], reason: FinishReason | None) -> Piece | None:
        """Return what these tokens add; None if it shows only later. A piece with a `finish_reason` is the last.

        `reason` means that the engine made its last tokens; a stop string ends the text earlier.
        """
        text = ""
        for token in tokens:
            self.count += 1
            if token in self._eos:
                continue
            new, is_stopped = self._stops.feed(self._detokenizer.feed(token))
            text += new
            if is_stopped:
                return Piece(text=text, completion_tokens=self.count, finish_reason="stop")
        if reason is not None:
            return self._last(text, reason)
        return Piece(text=text, completion_tokens=self.count) if text else None

    def _last(self, text: str, reason: FinishReason) -> Piece:
        rest, is_stopped = self._stops.feed(self._detokenizer.flush())
        text += rest if is_stopped else rest + self._stops.flush()
        return Piece(text=text, completion_tokens=self.count, finish_reason="stop" if is_stopped else reason)
