"""A streamed answer in other words than the model's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from controller.errors import UpstreamError
from controller.proxy.forwarding import Pieces
from controller.proxy.stream_pump import Source


class Translation(Protocol):
    """Words one streamed answer anew, as it comes."""

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """What a client gets for a piece. Raises UpstreamError for what cannot be understood, or says of a failure."""

    def end(self) -> None:
        """Told that there is no more; raises UpstreamInvalid when the answer was not whole."""


class TranslatedStream:
    """An answer's pieces in other words, each as soon as it can be worded."""

    def __init__(self, pieces: Pieces, translation: Translation) -> None:
        self._pieces = pieces
        self._translation = translation
        self._error: UpstreamError | None = None

    def read_piece(self) -> bytes:
        """Like `Exchange.read_piece`."""
        while self._error is None:
            piece = self._pieces.read_piece()
            if not piece:
                self._translation.end()
                return b""
            if worded := self._worded(piece):
                return worded
        raise self._error

    def close(self) -> None:
        """End the answer itself."""
        self._pieces.close()

    def _worded(self, piece: bytes) -> bytes:
        """An error takes nothing back of what came before it in the same piece."""
        worded = b""
        try:
            for part in self._translation.feed(piece):
                worded += part
        except UpstreamError as exc:
            self._error = exc
        return worded


class TranslatedSource(TranslatedStream):
    """The same of pieces that come by themselves. See `pump.Source`."""

    def __init__(self, pieces: Pieces, source: Source, translation: Translation) -> None:
        super().__init__(pieces, translation)
        self._source = source

    @property
    def is_over(self) -> bool:
        """Whether no more will come; `read_piece` tells what the end was."""
        return self._error is not None or self._source.is_over

    def fileno(self) -> int:
        """What to wait for."""
        return self._source.fileno()

    def feed(self, received: bytes) -> bytes:
        """What a client gets for what was received."""
        piece = self._source.feed(received)
        return self._worded(piece) if piece else b""

    def broke(self, cause: Exception) -> None:
        """Take note that the connection failed."""
        self._source.broke(cause)


def translate_stream(pieces: Pieces, translation: Translation) -> TranslatedStream:
    """The answer in other words, to be asked for, and where its pieces come by themselves to be waited for as well."""
    if isinstance(pieces, Source):
        return TranslatedSource(pieces, pieces, translation)
    return TranslatedStream(pieces, translation)
