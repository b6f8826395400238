"""A generation as server-sent events."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from runner.api.client_socket import ClientSocketWriter
from runner.api.errors import Broken, RunnerError, Unavailable
from runner.engines.job import GenerationFailed, Job, Outlet

# A silent connection looks dead to clients and to everything between; readers skip this line.
KEEP_ALIVE = b":\n\n"
KEEP_ALIVE_AFTER_S = 1.5


_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_MARK = "\0"


def sse_event(value: dict[str, Any]) -> bytes:
    """One event; JSON escapes line ends, so the value is always one line."""
    return b"data: " + _json(value).encode() + b"\n\n"


class TextEvent:
    """An event of which only one text changes: made once, not for every token."""

    def __init__(self, value_of: Callable[[str], dict[str, Any]]) -> None:
        # The last one: a name that the client chose may hold the mark, too, and stands before the text.
        self._before, _, self._after = sse_event(value_of(_MARK)).rpartition(_json(_MARK).encode())

    def of(self, text: str) -> bytes:
        """`sse_event(value_of(text))`."""
        return self._before + _json(text).encode() + self._after


def usage(job: Job) -> dict[str, int]:
    """The tokens of a generation so far."""
    prompt_tokens = len(job.request.prompt_tokens)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": job.completion_tokens,
        "total_tokens": prompt_tokens + job.completion_tokens,
    }


def summary(job: Job) -> dict[str, Any]:
    """What is known when a generation has ended: the same fields streamed or not."""
    total_s = job.elapsed_s()
    return {
        "finish_reason": job.finish_reason,
        "usage": usage(job),
        "timings": {"ttft_s": round(total_s if job.ttft_s is None else job.ttft_s, 4), "total_s": round(total_s, 4)},
    }


class Format(Protocol):
    """How a route words one generation; made anew for each request."""

    def whole(self, job: Job, text: str) -> dict[str, Any]:
        """The answer in one piece."""

    def text(self, text: str) -> bytes:
        """The events for some more text."""

    def ending(self, job: Job) -> bytes:
        """The events that close a stream which is whole."""


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

    The server asks for an item, writes it, and asks for the next. With a `wire`, text does not pass that way as long as
    the reader keeps up: the thread that asks sleeps, and the engine's thread words and sends each text itself.

    A class, since `close` must cancel the job even when the first event was never asked for; a generator that was not
    started would skip its `finally`.
    """

    def __init__(
        self,
        job: Job,
        wording: Format,
        *,
        request_id: str,
        on_close: Callable[[], None],
        silence_s: float,
        wire: ClientSocketWriter | None = None,
    ) -> None:
        self._job = job
        self._format = wording
        self._request_id = request_id
        self._on_close = on_close
        self._silence_s = silence_s
        self._wire = wire
        self._is_begun = False
        self._is_silent = True
        self._ended = False
        self._closed = False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self._ended:
            raise StopIteration
        # The first item goes the server's way, which puts the head before it.
        outlet = self._send if self._is_begun and self._wire is not None else None
        self._is_begun = True
        item = b""
        while not item:
            item = self._next(outlet)
        return item

    def close(self) -> None:
        """Stops the generation if it still runs; idempotent."""
        if not self._closed:
            self._closed = self._ended = True
            self._on_close()

    def _send(self, text: str) -> bool:
        """For the engine's thread, while the one that asks for items waits."""
        assert self._wire is not None
        data = self._format.text(text) if text else b""
        if not data:
            return True
        self._is_silent = False
        return self._wire.send(data)

    def _next(self, outlet: Outlet | None) -> bytes:
        self._is_silent = True
        try:
            piece = self._job.next_piece(self._silence_s, outlet)
        except GenerationFailed as error:
            return self._broken(Broken(str(error), code="generation_failed"))
        finally:
            if self._wire is not None:
                self._wire.flush()
        if piece is None:
            return KEEP_ALIVE if self._is_silent else b""
        text = self._format.text(piece.text) if piece.text else b""
        if piece.finish_reason is None:
            return text or (KEEP_ALIVE if piece.text else b"")
        if piece.finish_reason == "cancelled":
            # Nobody reads this where the client has left; where the process is stopping, the client must not take
            # the end of the stream for the end of the text.
            return self._broken(Unavailable("The generation was cancelled.", code="cancelled"))
        self._ended = True
        return text + self._format.ending(self._job)

    def _broken(self, error: RunnerError) -> bytes:
        self._ended = True
        return sse_event({"error": error.inner(self._request_id)})
