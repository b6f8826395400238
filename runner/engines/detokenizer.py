"""From tokens to the text a client may see: whole characters, and nothing of a stop string."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable, Sequence

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
# A character has at most four bytes, so more tokens than this without one are noise, not a character on its way.
MAX_PENDING_TOKENS = 16


class Detokenizer:
    """Turns tokens into text one at a time, never giving half a character.

    A token's text depends on the ones before it (leading spaces, characters of several tokens), so a short window is
    decoded again with each token and what it adds is given out.
    """

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self._decode = decode
        self._window: list[int] = []
        self._read = 0
        """How many tokens of the window have been given out."""
        self._given = ""
        """The text of those tokens."""

    def feed(self, token: int) -> str:
        """The text this token completes; empty while a character is still incomplete."""
        self._window.append(token)
        text = self._decode(self._window)
        pending = len(self._window) - self._read
        if (text.endswith(REPLACEMENT) and pending <= MAX_PENDING_TOKENS) or len(text) <= len(self._given):
            return ""
        return self._give(text)

    def flush(self) -> str:
        """The rest at the end of generation, without the unfinished character."""
        return self._give(self._decode(self._window).rstrip(REPLACEMENT)) if self._window else ""

    def _give(self, text: str) -> str:
        new = text[len(self._given) :]
        self._window = self._window[self._read :]
        self._read = len(self._window)
        self._given = self._decode(self._window)
        return new


class ByteDetokenizer:
    """The same for tokenizers whose text is the tokens' bytes put together: one look-up instead of two decodings.

    Bytes that are no character are left out.
    """

    def __init__(self, table: Sequence[bytes]) -> None:
        self._table = table
        self._decoder = codecs.getincrementaldecoder("utf-8")("ignore")

    def feed(self, token: int) -> str:
        """The text this token completes; empty while a character is still incomplete."""
        return self._decoder.decode(self._table[token])

    def flush(self) -> str:
        """The rest at the end of generation, without the unfinished character: always nothing."""
        return ""


class StopStrings:
    """Passes text on until a stop string is complete; none of that string is ever passed on.

    Text that may still turn out to be the beginning of one is held back. How the text was cut into pieces makes no
    difference.
    """

    def __init__(self, stops: Iterable[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""

    def feed(self, piece: str) -> tuple[str, bool]:
        """The text that may go out, and whether a stop string was found (then nothing more may be fed)."""
        if not self._stops:
            return piece, False
        text = self._held + piece
        # The one that is complete first; of those that end together, the longest.
        found = [(start + len(stop), -len(stop)) for stop in self._stops if (start := text.find(stop)) >= 0]
        if found:
            end, negative_length = min(found)
            self._held = ""
            return text[: end + negative_length], True
        keep = max(_overlap(text, stop) for stop in self._stops)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep], False

    def flush(self) -> str:
        """What was held back, at the end of a generation that met no stop string."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of `text` that begins `stop`."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
