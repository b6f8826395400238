"""Answers of a third-party server, which speaks the OpenAI API alone, as our clients expect them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from controller.api.translation import sse
from controller.api.translation.openai_events import (
    END,
    SILENCE,
    Event,
    EventReader,
    finish_reason_of,
    text_of,
    usage_of,
)
from controller.errors import UpstreamError, UpstreamInvalid
from controller.proxy.forwarding import Answer
from controller.proxy.stream_pump import Source

MAX_TEXT_CHARS = 16 * 1024 * 1024
_NO_USAGE: Mapping[str, int | None] = {"prompt_tokens": None, "completion_tokens": None, "total_tokens": None}


class _AnswerReader:
    """An answer that reads another one. See `proxy.forwarding.Answer`."""

    # One piece of the other may make several of this, or none: it has to be asked.
    source: Source | None = None

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._events = EventReader()
        self.status = answer.status
        self.content_type = answer.content_type
        self.model_id = answer.model_id
        self.wait_times = answer.wait_times

    def read_object(self) -> dict[str, Any]:
        return self._answer.read_object()

    def read_whole(self) -> bytes:
        """Return the same as JSON."""
        return json.dumps(self.read_object()).encode()

    def close(self) -> None:
        self._answer.close()


class RenamedAnswer(_AnswerReader):
    """An answer of the OpenAI API under the name that the client wrote; the server knows the id alone."""

    def __init__(self, answer: Answer, name: str, *, in_stream: bool) -> None:
        super().__init__(answer)
        self._name = name
        self._in_stream = in_stream

    def read_piece(self) -> bytes:
        """Return the next events; unread if the names are the same."""
        while piece := self._answer.read_piece():
            if not self._in_stream:
                return piece
            if events := b"".join(map(self._rename, self._events.feed(piece))):
                return events
        return b""

    def read_object(self) -> dict[str, Any]:
        return {**self._answer.read_object(), "model": self._name}

    def _rename(self, event: Event) -> bytes:
        if isinstance(event, str):
            return sse.COMMENT if event == SILENCE else sse.event(event)
        return _event({**event, "model": self._name})


class NativeAnswer(_AnswerReader):
    """A stream of the OpenAI API in the form of `POST /inference`: as its events, or all of them as one answer."""

    def __init__(self, answer: Answer, asked_at: float, clock: Callable[[], float]) -> None:
        super().__init__(answer)
        self._clock = clock
        # Our runner counts from when a request reaches it, which is after the wait for the model.
        self._reached_at = asked_at + answer.wait_times.total_s
        self._first_text_at: float | None = None
        self._usage: Mapping[str, int | None] = _NO_USAGE
        self._reason: str | None = None
        self._failure: UpstreamError | None = None
        self._is_whole = False

    def read_piece(self) -> bytes:
        """Return what the next piece adds to the text, and the closing event once the answer is whole."""
        if self._is_whole:
            return b""
        text = self._read_text()
        text_event = _event({"text": text}) if text else b""
        if self._is_whole:
            return text_event + _event({"done": True, **self._summary()})
        return text_event or sse.COMMENT

    def read_object(self) -> dict[str, Any]:
        """Return the whole answer; raise like `ModelAnswer.read_object`, and whatever breaks a stream."""
        if self.status != 200:
            return self._answer.read_object()
        if not self.content_type.startswith(sse.EVENT_STREAM):
            raise UpstreamInvalid(f"the model was asked for a stream and answered with {self.content_type}")
        texts, size = [], 0
        while not self._is_whole:
            texts.append(self._read_text())
            size += len(texts[-1])
            if size > MAX_TEXT_CHARS:
                raise UpstreamInvalid(f"the model's answer is longer than {MAX_TEXT_CHARS} characters")
        return {"text": "".join(texts), **self._summary()}

    def _read_text(self) -> str:
        """Return the text of the next piece; an error after some text is raised by the next call."""
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
            if event == END:
                self._end()
            return ""
        self._reason = finish_reason_of(event) or self._reason
        self._usage = usage_of(event) or self._usage
        text = text_of(event)
        if text and self._first_text_at is None:
            self._first_text_at = self._clock()
        return text

    def _end(self) -> None:
        if self._reason is None:
            raise UpstreamInvalid("the model's stream ended before its answer did")
        self._is_whole = True

    def _summary(self) -> dict[str, Any]:
        now = self._clock()
        first_text_at = now if self._first_text_at is None else self._first_text_at
        ttft_s, total_s = first_text_at - self._reached_at, now - self._reached_at
        return {
            "finish_reason": "length" if self._reason == "length" else "stop",
            "usage": dict(self._usage),
            "timings": {"ttft_s": round(ttft_s, 4), "total_s": round(total_s, 4)},
        }


def _event(value: dict[str, Any]) -> bytes:
    try:
        # Escaped, since a text may hold half a surrogate pair, for which UTF-8 has no bytes.
        return sse.event(json.dumps(value, allow_nan=False))
    except ValueError as exc:
        raise UpstreamInvalid("the model sent a number that is none") from exc
