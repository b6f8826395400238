"""Answers of the OpenAI API in Ollama's form, whole or line by line. Pure, but for the time of day."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from controller.api.dispatch import as_json
from controller.api.ollama.tool_calls import CallCollector, ollama_calls
from controller.api.translation.openai_events import END, EventReader
from controller.api.translation.stream import TranslatedStream
from controller.error_bodies import ollama_error
from controller.errors import OrchestrarError, UpstreamInvalid
from controller.proxy.forwarding import Answer, Pieces, WaitTimes

NS_PER_S = 1_000_000_000


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of an answer."""

    text: str = ""
    thinking: str = ""
    calls: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Times:
    """How long an answer took, from the request on; None = not known by itself."""

    total_s: float
    load_s: float
    prompt_s: float | None = None
    eval_s: float | None = None

    def durations(self) -> dict[str, int]:
        """Return them in nanoseconds, under Ollama's names."""
        times = {"total": self.total_s, "load": self.load_s, "prompt_eval": self.prompt_s, "eval": self.eval_s}
        return {f"{name}_duration": _ns(seconds) for name, seconds in times.items() if seconds is not None}


class OllamaFormat:
    """One answer to `/api/chat` or `/api/generate`; made when the request arrives. See `dispatch.AnswerFormat`."""

    stream_type = "application/x-ndjson"

    def __init__(self, model: str, *, is_chat: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._model = model
        self._is_chat = is_chat
        self._clock = clock
        self._started_at = clock()

    def whole(self, answer: Answer) -> bytes:
        return as_json(self.translate(answer.read_object(), answer.wait_times))

    def translate(self, answer: dict[str, Any], wait_times: WaitTimes) -> dict[str, Any]:
        """Translate a whole answer of the OpenAI API. Raises UpstreamInvalid for what is none."""
        choice = first_choice(answer)
        if choice is None:
            raise UpstreamInvalid("the model's answer has no choices")
        message = object_in(choice, "message")
        part, calls = part_of(message or choice), ollama_calls(message.get("tool_calls") or [])
        times = self._times_of_whole(object_in(answer, "timings"), wait_times)
        whole = Part(text=part.text, thinking=part.thinking, calls=calls)
        return self.last(whole, choice, object_in(answer, "usage"), times)

    def pieces(self, answer: Answer) -> Pieces:
        return TranslatedStream(answer, Lines(self, answer.wait_times))

    def error(self, error: OrchestrarError, request_id: str) -> bytes:
        return as_json(ollama_error(error, request_id))

    def more(self, part: Part) -> dict[str, Any]:
        """Return an object of a stream that goes on."""
        return {**self._head(part), "done": False}

    def empty(self, reason: str) -> dict[str, Any]:
        """Return the answer to a request that only loads or unloads the model."""
        return {**self._head(Part()), "done": True, "done_reason": reason}

    def last(self, part: Part, choice: dict[str, Any], usage: dict[str, Any], times: Times) -> dict[str, Any]:
        """Return the whole answer, or the object that ends a stream."""
        reason = choice.get("finish_reason") or "stop"
        counts = {"prompt_eval_count": usage.get("prompt_tokens"), "eval_count": usage.get("completion_tokens")}
        return {
            **self._head(part),
            "done": True,
            "done_reason": "stop" if reason == "tool_calls" else reason,
            **{name: count for name, count in counts.items() if count is not None},
            **times.durations(),
        }

    def times(self, wait_times: WaitTimes, first_at: float | None) -> Times:
        """Return the times of an answer that ends now and began to come at `first_at`."""
        now, load_s = self._clock(), wait_times.total_s
        first_at = now if first_at is None else first_at
        prompt_s = max(first_at - self._started_at - load_s, 0.0)
        return Times(total_s=now - self._started_at, load_s=load_s, prompt_s=prompt_s, eval_s=now - first_at)

    def now(self) -> float:
        """Return the time by the clock of `times`."""
        return self._clock()

    def _times_of_whole(self, timings: dict[str, Any], wait_times: WaitTimes) -> Times:
        """Return the times of an answer that came at once: only the engine knows what its parts took, if it says so."""
        total_s, load_s = self._clock() - self._started_at, wait_times.total_s
        prompt_ms, eval_ms = timings.get("prompt_ms"), timings.get("predicted_ms")
        if isinstance(prompt_ms, (int, float)) and isinstance(eval_ms, (int, float)):
            return Times(total_s=total_s, load_s=load_s, prompt_s=prompt_ms / 1000, eval_s=eval_ms / 1000)
        return Times(total_s=total_s, load_s=load_s, prompt_s=None, eval_s=max(total_s - load_s, 0.0))

    def _head(self, part: Part) -> dict[str, Any]:
        thinking = {"thinking": part.thinking} if part.thinking else {}
        calls = {"tool_calls": part.calls} if part.calls else {}
        head = {"model": self._model, "created_at": rfc3339(datetime.now(UTC))}
        if self._is_chat:
            return {**head, "message": {"role": "assistant", "content": part.text, **thinking, **calls}}
        return {**head, "response": part.text, **thinking}


class Lines:
    """A streamed answer as lines of JSON. See `translation.stream.Translation`."""

    def __init__(self, answer_format: OllamaFormat, wait_times: WaitTimes) -> None:
        self._format = answer_format
        self._wait_times = wait_times
        self._events = EventReader()
        self._calls = CallCollector()
        self._last_choice: dict[str, Any] = {}
        self._usage: dict[str, Any] = {}
        self._first_at: float | None = None
        self._has_ended = False

    def feed(self, piece: bytes) -> Iterator[bytes]:
        for event in self._events.feed(piece):
            if isinstance(event, str) or self._has_ended:
                if event == END and not self._has_ended:
                    yield from self._last_lines()
                continue
            self._usage = object_in(event, "usage") or self._usage
            choice = first_choice(event)
            if choice is not None:
                yield from self._lines(choice)

    def end(self) -> None:
        if not self._has_ended:
            raise UpstreamInvalid("the model ended its answer without saying that it is whole")

    def _lines(self, choice: dict[str, Any]) -> Iterator[bytes]:
        if choice.get("finish_reason"):
            self._last_choice = choice
        delta = object_in(choice, "delta")
        part = part_of(delta or choice)
        has_calls = self._calls.add(delta.get("tool_calls") or [])
        if not (part.text or part.thinking or has_calls):
            return
        if self._first_at is None:
            self._first_at = self._format.now()
        if part.text or part.thinking:
            yield as_json(self._format.more(part))

    def _last_lines(self) -> Iterator[bytes]:
        self._has_ended = True
        if calls := self._calls.whole():
            yield as_json(self._format.more(Part(calls=ollama_calls(calls))))
        times = self._format.times(self._wait_times, self._first_at)
        yield as_json(self._format.last(Part(), self._last_choice, self._usage, times))


def first_choice(answer: dict[str, Any]) -> dict[str, Any] | None:
    """Return the only choice, since no more are ever asked for; None for events that only have the usage."""
    choices = answer.get("choices")
    if not choices:
        return None
    if not isinstance(choices, list) or not isinstance(choices[0], dict):
        raise UpstreamInvalid("the model's answer has choices of no known shape")
    return choices[0]


def object_in(value: dict[str, Any], key: str) -> dict[str, Any]:
    """Return the object under a key, empty if there is none."""
    inner = value.get(key) or {}
    if not isinstance(inner, dict):
        raise UpstreamInvalid(f"the model's answer has {key} of no known shape")
    return inner


def part_of(message: dict[str, Any]) -> Part:
    """Return the text and the thoughts, for which engines' names differ, of a message, a delta, or a completion."""
    text = message.get("content") or message.get("text") or ""
    thinking = message.get("reasoning_content") or message.get("reasoning") or ""
    if not isinstance(text, str) or not isinstance(thinking, str):
        raise UpstreamInvalid("the model's answer has text of no known shape")
    return Part(text=text, thinking=thinking)


def rfc3339(moment: datetime) -> str:
    """Return a moment in UTC as Ollama writes it."""
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _ns(seconds: float) -> int:
    return round(seconds * NS_PER_S)
