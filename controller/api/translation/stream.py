"""A streamed answer in another form than the model's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from controller.errors import UpstreamError
from controller.proxy.forwarding import Pieces
from controller.proxy.stream_pump import Source


class Translation(Protocol):
    """Translates one streamed answer as it comes."""

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """Return what a client gets for a piece. Raises UpstreamError for what is unusable, or is an error itself."""

    def end(self) -> None:
        """Note that no more comes; raise UpstreamInvalid if the answer was not whole."""


class TranslatedStream:
    """An answer's pieces in another form, each as soon as it can be translated."""

    def __init__(self, pieces: Pieces, translation: Translation) -> None:
        self.error: UpstreamError | None = None
        self._pieces = pieces
        self._translation = translation

    @property
    def source(self) -> Source | None:
        """The model's source, translated; None if the pieces have to be asked for."""
        return None if self._pieces.source is None else TranslatedSource(self, self._pieces.source)

    def read_piece(self) -> bytes:
        """Return the next piece; raise like `ModelAnswer.read_piece`."""
        while self.error is None:
            piece = self._pieces.read_piece()
            if not piece:
                self._translation.end()
                return b""
            if text := self.translate(piece):
                return text
        raise self.error

    def close(self) -> None:
        """End the answer itself."""
        self._pieces.close()

    def translate(self, piece: bytes) -> bytes:
        """Return what a client gets for a piece; an `error` in it takes back nothing that came before it."""
        text = b""
        try:
            for part in self._translation.feed(piece):
                text += part
        except UpstreamError as exc:
            self.error = exc
        return text


class TranslatedSource:
    """The source of a stream that is translated on its way. See `stream_pump.Source`."""

    def __init__(self, stream: TranslatedStream, source: Source) -> None:
        self._stream = stream
        self._source = source
        self.fileno = source.fileno
        self.fail = source.fail

    @property
    def is_over(self) -> bool:
        """Whether no more will come; the stream's `read_piece` then tells what the end was."""
        return self._stream.error is not None or self._source.is_over

    def feed(self, data: bytes) -> bytes:
        """Return what a client gets for the data that came."""
        piece = self._source.feed(data)
        return self._stream.translate(piece) if piece else b""
