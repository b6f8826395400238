"""A generation as server-sent events."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from runner.errors import Broken
from runner.jobs import GenerationFailed, Job

# A silent connection looks dead to clients and to everything between; readers skip this line.
KEEP_ALIVE = b":\n\n"
KEEP_ALIVE_AFTER_S = 1.5


def sse_event(value: dict[str, Any]) -> bytes:
    """One event; JSON escapes line ends, so the value is always one line."""
    return b"data: " + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


def summary(job: Job) -> dict[str, Any]:
    """What is known when a generation has ended: the same fields streamed or not."""
    prompt_tokens = len(job.request.prompt_tokens)
    total_s = job.elapsed_s()
    return {
        "finish_reason": job.finish_reason,
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": job.completion_tokens,
            "total_tokens": prompt_tokens + job.completion_tokens,
        },
        "timings": {"ttft_s": round(total_s if job.ttft_s is None else job.ttft_s, 4), "total_s": round(total_s, 4)},
    }


class EventStream:
    """The response body of a streamed generation.

    A class, since `close` must cancel the job even when the first event was never asked for; a generator that was not
    started would skip its `finally`.
    """

    def __init__(self, job: Job, *, request_id: str, on_close: Callable[[], None], silence_s: float) -> None:
        self._job = job
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
            self._ended = True
            return sse_event({"error": Broken(str(error), code="generation_failed").inner(self._request_id)})
        if piece is None:
            return KEEP_ALIVE
        text = sse_event({"text": piece.text}) if piece.text else b""
        if piece.finish_reason is None:
            return text or KEEP_ALIVE
        self._ended = True
        if piece.finish_reason == "cancelled":
            raise StopIteration
        return text + sse_event({"done": True, **summary(self._job)})

    def close(self) -> None:
        """Stops the generation if it still runs; idempotent."""
        if not self._closed:
            self._closed = self._ended = True
            self._on_close()
