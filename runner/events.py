"""A generation as server-sent events."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from runner.errors import Broken, RunnerError, Unavailable
from runner.jobs import GenerationFailed, Job

# A silent connection looks dead to clients and to everything between; readers skip this line.
KEEP_ALIVE = b":\n\n"
KEEP_ALIVE_AFTER_S = 1.5


def sse_event(value: dict[str, Any]) -> bytes:
    """One event; JSON escapes line ends, so the value is always one line."""
    return b"data: " + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


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
        return sse_event({"text": text})

    def ending(self, job: Job) -> bytes:
        return sse_event({"done": True, **summary(job)})


class EventStream:
    """The response body of a streamed generation.

    A class, since `close` must cancel the job even when the first event was never asked for; a generator that was not
    started would skip its `finally`.
    """

    def __init__(
        self, job: Job, wording: Format, *, request_id: str, on_close: Callable[[], None], silence_s: float
    ) -> None:
        self._job = job
        self._format = wording
        self._request_id = request_id
        self._on_close = on_close
        self._silence_s = silence_s
        self._ended = False
        self._closed = False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self._ended:
            raise StopIteration
        try:
            piece = self._job.next_piece(self._silence_s)
        except GenerationFailed as error:
            return self._broken(Broken(str(error), code="generation_failed"))
        if piece is None:
            return KEEP_ALIVE
        text = self._format.text(piece.text) if piece.text else b""
        if piece.finish_reason is None:
            return text or KEEP_ALIVE
        if piece.finish_reason == "cancelled":
            # Nobody reads this where the client has left; where the process is stopping, the client must not take
            # the end of the stream for the end of the text.
            return self._broken(Unavailable("The generation was cancelled.", code="cancelled"))
        self._ended = True
        return text + self._format.ending(self._job)

    def _broken(self, error: RunnerError) -> bytes:
        self._ended = True
        return sse_event({"error": error.inner(self._request_id)})

    def close(self) -> None:
        """Stops the generation if it still runs; idempotent."""
        if not self._closed:
            self._closed = self._ended = True
            self._on_close()
