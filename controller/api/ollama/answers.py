"""Answers of the OpenAI API in Ollama's words, whole or line by line. Pure, but for the time of day."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from controller.api.dispatch import as_json
from controller.api.ollama.tool_calls import CallCollector, worded_calls
from controller.api.translation.openai_events import DONE, EventReader
from controller.api.translation.stream import translate_stream
from controller.error_bodies import ollama_error
from controller.errors import OrchestrarError, UpstreamInvalid
from controller.proxy.forwarding import Answer, Pieces, Waited

NS_PER_S = 1_000_000_000


@dataclass(frozen=True, kw_only=True)
class Part:
    """Some of an answer."""

    text: str = ""
    thinking: str = ""
    calls: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Times:
    """How long an answer took, from the request on; None = not known apart from the rest."""

    total_s: float
    load_s: float
    prompt_s: float | None = None
    eval_s: float | None = None

    def durations(self) -> dict[str, int]:
        """In nanoseconds, as Ollama tells them."""
        named = {"total": self.total_s, "load": self.load_s, "prompt_eval": self.prompt_s, "eval": self.eval_s}
        return {f"{name}_duration": _ns(seconds) for name, seconds in named.items() if seconds is not None}


class OllamaWording:
    """One answer to `/api/chat` or `/api/generate`; made when the request arrives. See `dispatch.AnswerFormat`."""

    stream_type = "application/x-ndjson"

    def __init__(self, model: str, *, is_chat: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._model = model
        self._is_chat = is_chat
        self._clock = clock
        self._begun = clock()

    def whole(self, answer: Answer) -> bytes:
        return as_json(self.worded(answer.read_object(), answer.waited))

    def worded(self, answer: dict[str, Any], waited: Waited) -> dict[str, Any]:
        """An answer of the OpenAI API in one piece. Raises UpstreamInvalid for what is none."""
        choice = first_choice(answer)
        if choice is None:
            raise UpstreamInvalid("the model's answer has no choices")
        message = object_in(choice, "message")
        part, calls = part_of(message or choice), worded_calls(message.get("tool_calls") or [])
        times = self._told_times(object_in(answer, "timings"), waited)
        whole = Part(text=part.text, thinking=part.thinking, calls=calls)
        return self.last(whole, choice, object_in(answer, "usage"), times)

    def streamed(self, answer: Answer) -> Pieces:
        return translate_stream(answer, Lines(self, answer.waited))

    def error(self, error: OrchestrarError, request_id: str) -> bytes:
        return as_json(ollama_error(error, request_id))

    def more(self, part: Part) -> dict[str, Any]:
        """An object of a stream that goes on."""
        return {**self._head(part), "done": False}

    def empty(self, reason: str) -> dict[str, Any]:
        """The answer to a request that only loads or unloads the model."""
        return {**self._head(Part()), "done": True, "done_reason": reason}

    def last(self, part: Part, choice: dict[str, Any], usage: dict[str, Any], times: Times) -> dict[str, Any]:
        """The whole answer, or the object that ends a stream."""
        reason = choice.get("finish_reason") or "stop"
        named = {"prompt_eval_count": usage.get("prompt_tokens"), "eval_count": usage.get("completion_tokens")}
        return {
            **self._head(part),
            "done": True,
            "done_reason": "stop" if reason == "tool_calls" else reason,
            **{name: count for name, count in named.items() if count is not None},
            **times.durations(),
        }

    def times(self, waited: Waited, first_at: float | None) -> Times:
        """Of an answer that ends now and began to come at `first_at`."""
        now, load_s = self._clock(), waited.start_s + waited.queue_s
        first_at = now if first_at is None else first_at
        prompt_s = max(first_at - self._begun - load_s, 0.0)
        return Times(total_s=now - self._begun, load_s=load_s, prompt_s=prompt_s, eval_s=now - first_at)

    def now(self) -> float:
        """By the clock of `times`."""
        return self._clock()

    def _told_times(self, told: dict[str, Any], waited: Waited) -> Times:
        """A whole answer comes at once; what its parts took only the engine knows, and some tell it."""
        total_s, load_s = self._clock() - self._begun, waited.start_s + waited.queue_s
        prompt_ms, eval_ms = told.get("prompt_ms"), told.get("predicted_ms")
        if isinstance(prompt_ms, (int, float)) and isinstance(eval_ms, (int, float)):
            return Times(total_s=total_s, load_s=load_s, prompt_s=prompt_ms / 1000, eval_s=eval_ms / 1000)
        return Times(total_s=total_s, load_s=load_s, prompt_s=None, eval_s=max(total_s - load_s, 0.0))

    def _head(self, part: Part) -> dict[str, Any]:
        thinking = {"thinking": part.thinking} if part.thinking else {}
        calls = {"tool_calls": part.calls} if part.calls else {}
        head = {"model": self._model, "created_at": rfc3339(datetime.now(timezone.utc))}
        if self._is_chat:
            return {**head, "message": {"role": "assistant", "content": part.text, **thinking, **calls}}
        return {**head, "response": part.text, **thinking}


class Lines:
    """A streamed answer as lines of JSON. See `translating.Translation`."""

    def __init__(self, wording: OllamaWording, waited: Waited) -> None:
        self._wording = wording
        self._waited = waited
        self._events = EventReader()
        self._calls = CallCollector()
        self._last_choice: dict[str, Any] = {}
        self._usage: dict[str, Any] = {}
        self._first_at: float | None = None
        self._ended = False

    def feed(self, piece: bytes) -> Iterator[bytes]:
        for event in self._events.feed(piece):
            if isinstance(event, str) or self._ended:
                if event == DONE and not self._ended:
                    yield from self._ending()
                continue
            self._usage = object_in(event, "usage") or self._usage
            choice = first_choice(event)
            if choice is not None:
                yield from self._more(choice)

    def end(self) -> None:
        if not self._ended:
            raise UpstreamInvalid("the model ended its answer without saying that it is whole")

    def _more(self, choice: dict[str, Any]) -> Iterator[bytes]:
        if choice.get("finish_reason"):
            self._last_choice = choice
        delta = object_in(choice, "delta")
        part = part_of(delta or choice)
        has_calls = self._calls.add(delta.get("tool_calls") or [])
        if not (part.text or part.thinking or has_calls):
            return
        if self._first_at is None:
            self._first_at = self._wording.now()
        if part.text or part.thinking:
            yield as_json(self._wording.more(part))

    def _ending(self) -> Iterator[bytes]:
        self._ended = True
        if calls := self._calls.whole():
            yield as_json(self._wording.more(Part(calls=worded_calls(calls))))
        times = self._wording.times(self._waited, self._first_at)
        yield as_json(self._wording.last(Part(), self._last_choice, self._usage, times))


def first_choice(answer: dict[str, Any]) -> dict[str, Any] | None:
    """The one choice there is, since never more are asked for; None for events that only tell the usage."""
    choices = answer.get("choices")
    if not choices:
        return None
    if not isinstance(choices, list) or not isinstance(choices[0], dict):
        raise UpstreamInvalid("the model's answer has choices of no known shape")
    return choices[0]


def object_in(value: dict[str, Any], key: str) -> dict[str, Any]:
    """The object under a key, empty when there is none."""
    found = value.get(key) or {}
    if not isinstance(found, dict):
        raise UpstreamInvalid(f"the model's answer has {key} of no known shape")
    return found


def part_of(said: dict[str, Any]) -> Part:
    """A message, a delta, or a choice of a completion; engines that part thoughts from text differ in the name."""
    text = said.get("content") or said.get("text") or ""
    thinking = said.get("reasoning_content") or said.get("reasoning") or ""
    if not isinstance(text, str) or not isinstance(thinking, str):
        raise UpstreamInvalid("the model's answer has text of no known shape")
    return Part(text=text, thinking=thinking)


def rfc3339(moment: datetime) -> str:
    """A moment in UTC as Ollama writes it."""
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _ns(seconds: float) -> int:
    return round(seconds * NS_PER_S)
