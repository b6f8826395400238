"""A generation as server-sent events."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from runner.api.client_socket import ClientSocketWriter
from runner.api.errors import RunnerError, ServerError, Unavailable
from runner.engines.job import GenerationFailed, Job, TextCallback

# A silent connection looks dead to clients and proxies; readers skip this line.
KEEP_ALIVE = b":\n\n"
KEEP_ALIVE_AFTER_S = 1.5


_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_MARK = "\0"


def sse_event(value: dict[str, Any]) -> bytes:
    """Return one event; JSON escapes line ends, so the value is always one line."""
    return b"data: " + _json(value).encode() + b"\n\n"


class TextEvent:
    """An event in which only one text changes: built once, not for every token."""

    def __init__(self, value_of: Callable[[str], dict[str, Any]]) -> None:
        # Split at the last mark: the text comes after any name that the client chose, which may hold the mark, too.
        self._before, _, self._after = sse_event(value_of(_MARK)).rpartition(_json(_MARK).encode())

    def of(self, text: str) -> bytes:
        """Return `sse_event(value_of(text))`."""
        return self._before + _json(text).encode() + self._after


def usage(job: Job) -> dict[str, int]:
    """Return the token counts of a generation so far."""
    prompt_tokens = len(job.request.prompt_tokens)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": job.completion_tokens,
        "total_tokens": prompt_tokens + job.completion_tokens,
    }


def summary(job: Job) -> dict[str, Any]:
    """Return what is known once a generation has ended: the same fields whether streamed or not."""
    total_s = job.elapsed_s()
    return {
        "finish_reason": job.finish_reason,
        "usage": usage(job),
        "timings": {"ttft_s": round(total_s if job.ttft_s is None else job.ttft_s, 4), "total_s": round(total_s, 4)},
    }


class Format(Protocol):
    """How a route formats one generation; each request has its own."""

    def whole(self, job: Job, text: str) -> dict[str, Any]:
        """Return the whole answer."""

    def text(self, text: str) -> bytes:
        """Return the events for some more text."""

    def ending(self, job: Job) -> bytes:
        """Return the events that end a complete stream."""


class NativeFormat:
    """The format of `POST /inference`."""

    def whole(self, job: Job, text: str) -> dict[str, Any]:
        return {"text": text, **summary(job)}

    def text(self, text: str) -> bytes:
        return _NATIVE_TEXT.of(text)

    def ending(self, job: Job) -> bytes:
        return sse_event({"done": True, **summary(job)})


_NATIVE_TEXT = TextEvent(lambda text: {"text": text})


class EventStream:
    """The response body of a streamed generation.

    The server asks for an item, writes it, and asks for the next. With a `socket_writer`, text takes a shorter way
    while the reader keeps up: the thread that asks sleeps, and the engine's thread formats and sends each text itself.

    This is a class because `close` must cancel the job even if the server never asked for the first event; a generator
    that was not started would skip its `finally`.
    """

    def __init__(
        self,
        job: Job,
        answer_format: Format,
        *,
        request_id: str,
        on_close: Callable[[], None],
        silence_s: float,
        socket_writer: ClientSocketWriter | None = None,
    ) -> None:
        self._job = job
        self._format = answer_format
        self._request_id = request_id
        self._on_close = on_close
        self._silence_s = silence_s
        self._socket_writer = socket_writer
        self._has_begun = False
        self._is_silent = True
        self._has_ended = False
        self._closed = False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self._has_ended:
            raise StopIteration
        # The server must write the first item, since it puts the head before it.
        on_text = self._send if self._has_begun and self._socket_writer is not None else None
        self._has_begun = True
        item = b""
        while not item:
            item = self._next(on_text)
        return item

    def close(self) -> None:
        """Stop the generation if it still runs; idempotent."""
        if not self._closed:
            self._closed = self._has_ended = True
            self._on_close()

    def _send(self, text: str) -> bool:
        """Send some text. The engine's thread calls it while the server's thread waits for an item."""
        assert self._socket_writer is not None
        data = self._format.text(text) if text else b""
        if not data:
            return True
        self._is_silent = False
        return self._socket_writer.send(data)

    def _next(self, on_text: TextCallback | None) -> bytes:
        self._is_silent = True
        try:
            piece = self._job.next_piece(self._silence_s, on_text)
        except GenerationFailed as error:
            return self._end_with(ServerError(str(error), code="generation_failed"))
        finally:
            if self._socket_writer is not None:
                self._socket_writer.flush()
        if piece is None:
            return KEEP_ALIVE if self._is_silent else b""
        text = self._format.text(piece.text) if piece.text else b""
        if piece.finish_reason is None:
            return text or (KEEP_ALIVE if piece.text else b"")
        if piece.finish_reason == "cancelled":
            # If the client has left, this has no reader. If the process is stopping, the client must not take the end
            # of the stream for the end of the text.
            return self._end_with(Unavailable("The generation was cancelled.", code="cancelled"))
        self._has_ended = True
        return text + self._format.ending(self._job)

    def _end_with(self, error: RunnerError) -> bytes:
        self._has_ended = True
        return sse_event({"error": error.inner(self._request_id)})
