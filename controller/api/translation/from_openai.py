"""Answers of a server that speaks the OpenAI API alone, as clients of ours expect them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from controller.api.translation.openai_events import (
    DONE,
    SILENCE,
    Event,
    EventReader,
    finish_reason_of,
    text_of,
    usage_of,
)
from controller.errors import UpstreamError, UpstreamInvalid
from controller.proxy.forwarding import Answer

EVENT_STREAM = "text/event-stream"
MAX_TEXT_CHARS = 16 * 1024 * 1024
_COMMENT = b":\n\n"
_NO_USAGE: Mapping[str, int | None] = {"prompt_tokens": None, "completion_tokens": None, "total_tokens": None}


class _Read:
    """An answer read through another one. See `controller.relay.Answer`."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._events = EventReader()
        self.status = answer.status
        self.content_type = answer.content_type
        self.waited = answer.waited

    def read_object(self) -> dict[str, Any]:
        return self._answer.read_object()

    def read_whole(self) -> bytes:
        """The same as JSON."""
        return json.dumps(self.read_object()).encode()

    def close(self) -> None:
        self._answer.close()


class RenamedAnswer(_Read):
    """An answer of the OpenAI API under the name that the client wrote, where the server knows the id alone."""

    def __init__(self, answer: Answer, name: str, *, in_stream: bool) -> None:
        super().__init__(answer)
        self._name = name
        self._in_stream = in_stream

    def read_piece(self) -> bytes:
        """The next events; unread where the names are the same."""
        while piece := self._answer.read_piece():
            if not self._in_stream:
                return piece
            if events := b"".join(map(self._renamed, self._events.feed(piece))):
                return events
        return b""

    def read_object(self) -> dict[str, Any]:
        return {**self._answer.read_object(), "model": self._name}

    def _renamed(self, event: Event) -> bytes:
        if isinstance(event, str):
            return _COMMENT if event == SILENCE else f"data: {event}\n\n".encode()
        return _event({**event, "model": self._name})


class NativeAnswer(_Read):
    """A stream of the OpenAI API in the words of `POST /inference`: as its events, or all of them as one answer."""

    def __init__(self, answer: Answer, begun_s: float, clock: Callable[[], float]) -> None:
        super().__init__(answer)
        self._clock = clock
        # Our runner counts from when a request reaches it, which is after the wait for the model.
        self._asked_s = begun_s + answer.waited.start_s + answer.waited.queue_s
        self._first_text_s: float | None = None
        self._usage: Mapping[str, int | None] = _NO_USAGE
        self._reason: str | None = None
        self._failure: UpstreamError | None = None
        self._is_whole = False

    def read_piece(self) -> bytes:
        """What the next piece adds to the text, and the closing event once the answer is whole."""
        if self._is_whole:
            return b""
        text = self._read_text()
        added = _event({"text": text}) if text else b""
        if self._is_whole:
            return added + _event({"done": True, **self._summary()})
        return added or _COMMENT

    def read_object(self) -> dict[str, Any]:
        """The whole answer; raises like `Exchange.read_object`, and what breaks a stream."""
        if self.status != 200:
            return self._answer.read_object()
        if not self.content_type.startswith(EVENT_STREAM):
            raise UpstreamInvalid(f"the model was asked for a stream and answered with {self.content_type}")
        texts, size = [], 0
        while not self._is_whole:
            texts.append(self._read_text())
            size += len(texts[-1])
            if size > MAX_TEXT_CHARS:
                raise UpstreamInvalid(f"the model's answer is longer than {MAX_TEXT_CHARS} characters")
        return {"text": "".join(texts), **self._summary()}

    def _read_text(self) -> str:
        """The text of the next piece; what breaks the stream after some text is kept for the next call."""
        if self._failure is not None:
            raise self._failure
        text = ""
        try:
            if piece := self._answer.read_piece():
                for event in self._events.feed(piece):
                    text += self._take(event)
            else:
                self._end()
        except UpstreamError as exc:
            if not text:
                raise
            self._failure = exc
        return text

    def _take(self, event: Event) -> str:
        if isinstance(event, str):
            if event == DONE:
                self._end()
            return ""
        self._reason = finish_reason_of(event) or self._reason
        self._usage = usage_of(event) or self._usage
        text = text_of(event)
        if text and self._first_text_s is None:
            self._first_text_s = self._clock()
        return text

    def _end(self) -> None:
        if self._reason is None:
            raise UpstreamInvalid("the model's stream ended before its answer did")
        self._is_whole = True

    def _summary(self) -> dict[str, Any]:
        now_s = self._clock()
        first_s = now_s if self._first_text_s is None else self._first_text_s
        return {
            "finish_reason": "length" if self._reason == "length" else "stop",
            "usage": dict(self._usage),
            "timings": {"ttft_s": round(first_s - self._asked_s, 4), "total_s": round(now_s - self._asked_s, 4)},
        }


def _event(value: dict[str, Any]) -> bytes:
    try:
        # Escaped, since half a surrogate pair may stand in a text, which UTF-8 has no bytes for.
        return f"data: {json.dumps(value, allow_nan=False)}\n\n".encode()
    except ValueError as exc:
        raise UpstreamInvalid("the model sent a number that is none") from exc
