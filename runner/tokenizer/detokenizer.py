"""Turns tokens into text for the client: whole characters, and no part of a stop string."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable, Sequence

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
# A character has at most four bytes: more tokens than this without one are noise, not an unfinished character.
MAX_PENDING_TOKENS = 16


class Detokenizer:
    """Turns tokens into text one at a time, and never returns half a character.

    A token's text depends on the ones before it (leading spaces, characters of several tokens). So each token is
    decoded together with a short window of earlier ones, and only the text that it adds is returned.
    """

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self._decode = decode
        self._window: list[int] = []
        self._read = 0
        """How many tokens of the window have been returned as text."""
        self._read_text = ""
        """The text of those tokens."""

    def feed(self, token: int) -> str:
        """Return the text that this token completes; empty while a character is incomplete."""
        self._window.append(token)
        text = self._decode(self._window)
        pending = len(self._window) - self._read
        if (text.endswith(REPLACEMENT) and pending <= MAX_PENDING_TOKENS) or len(text) <= len(self._read_text):
            return ""
        return self._advance(text)

    def flush(self) -> str:
        """Return the rest at the end of a generation, without an unfinished character."""
        return self._advance(self._decode(self._window).rstrip(REPLACEMENT)) if self._window else ""

    def _advance(self, text: str) -> str:
        new = text[len(self._read_text) :]
        self._window = self._window[self._read :]
        self._read = len(self._window)
        self._read_text = self._decode(self._window)
        return new


class ByteDetokenizer:
    """Does the same for tokenizers whose text is the tokens' bytes put together: one look-up instead of two decodings.

    Bytes that do not form a character are left out.
    """

    def __init__(self, table: Sequence[bytes]) -> None:
        self._table = table
        self._decoder = codecs.getincrementaldecoder("utf-8")("ignore")

    def feed(self, token: int) -> str:
        """Return the text that this token completes; empty while a character is incomplete."""
        return self._decoder.decode(self._table[token])

    def flush(self) -> str:
        """Return the rest at the end of a generation, without an unfinished character: always nothing."""
        return ""


class StopStrings:
    """Passes text on until a stop string is complete, and passes on no part of that string.

    It holds back text that may be the beginning of a stop string. The cuts between the pieces of text do not matter.
    """

    def __init__(self, stops: Iterable[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._pending = ""

    def feed(self, piece: str) -> tuple[str, bool]:
        """Return the text to pass on, and whether a stop string is complete (then feed nothing more)."""
        if not self._stops:
            return piece, False
        text = self._pending + piece
        # The stop string that is complete first; the longest of those that end together.
        matches = [(start + len(stop), -len(stop)) for stop in self._stops if (start := text.find(stop)) >= 0]
        if matches:
            end, negative_length = min(matches)
            self._pending = ""
            return text[: end + negative_length], True
        keep = max(_overlap(text, stop) for stop in self._stops)
        self._pending = text[len(text) - keep :]
        return text[: len(text) - keep], False

    def flush(self) -> str:
        """Return the text held back, at the end of a generation without a stop string."""
        rest, self._pending = self._pending, ""
        return rest


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest end of `text` that is a beginning of `stop`."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
