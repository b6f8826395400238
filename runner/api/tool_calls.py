"""Finds tool calls in a model's text while it is generated, in the forms that models are trained to write.

Hermes and Qwen write `<tool_call>{"name": …, "arguments": {…}}</tool_call>`, Llama 3 `{"name": …, "parameters": {…}}`
as the whole message, Mistral `[TOOL_CALLS][{"name": …, "arguments": {…}}]` or `[TOOL_CALLS]name[ARGS]{…}`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, NoReturn

from runner.tokenizer.chat_messages import HERMES, LLAMA, MISTRAL

OPENERS = (HERMES, MISTRAL, LLAMA)
CLOSER = "</tool_call>"
# Characters that may stand between calls.
SPACE = " \t\r\n;"
# A message that is a call in bare JSON starts with one of these keys.
_KEYS = ('"name"', '"type"', '"function"', '"id"')
_BARE = re.compile(r"(?:\[\s*)?\{\s*")
_HALF_BARE = re.compile(r"(?:\[\s*)?")
_NAME = re.compile(r"([\w-]{1,64})\s*(?:\[ARGS\])?\s*(?=\{)")
_HALF_NAME = re.compile(r"[\w-]{0,64}\s*(?:\[(?:A(?:R(?:G(?:S(?:\]\s*)?)?)?)?)?)?")


@dataclass(frozen=True)
class Call:
    """A tool call; `arguments` is a JSON object as text."""

    name: str
    arguments: str


class _NotYet(Exception):
    """The decision needs more text."""


class ToolCallParser:
    """Takes a text piece by piece, wherever it is cut. Holds back text that may become a call.

    After `most` calls, it ignores further text.
    """

    def __init__(self, names: Collection[str], most: int | None = None) -> None:
        self._names = names
        self._left = most
        self._pending = ""
        self._json = _JsonEnd()
        self._may_be_bare = True
        """The text so far has only calls: another may follow without a mark."""
        self._follows_call = False

    def feed(self, text: str) -> list[str | Call]:
        """Return what is certain now: texts of the answer, and calls, in order."""
        self._pending += text
        return self._events(is_end=False)

    def flush(self) -> list[str | Call]:
        """Return the rest, at the end of the text; an incomplete call is text."""
        return self._events(is_end=True)

    def _events(self, *, is_end: bool) -> list[str | Call]:
        events: list[str | Call] = []
        while self._pending and self._left != 0:
            rest = self._pending.lstrip(SPACE) if self._may_be_bare or self._follows_call else self._pending
            space = self._pending[: len(self._pending) - len(rest)]
            try:
                calls, length = self._calls_at_start(rest, is_end)
            except _NotYet:
                break
            self._json = _JsonEnd()
            if not calls and rest:
                length = _text_length(rest, is_end)
                events.append(space + rest[:length])
                self._may_be_bare = self._follows_call = False
            else:
                # Space before a call, and after the last one, does not belong to the answer.
                events += calls[: self._left] or ([] if self._follows_call else [space])
                self._left = None if self._left is None else max(0, self._left - len(calls))
                self._follows_call = True
            self._pending = rest[length:]
        return events

    def _calls_at_start(self, rest: str, is_end: bool) -> tuple[list[Call], int]:
        """Return the calls at the start of the text, and their length. Raises _NotYet."""
        opener = next((opener for opener in OPENERS if rest.startswith(opener)), None)
        try:
            if opener is not None:
                return self._calls_after_opener(rest, opener, is_end)
            if any(opener.startswith(rest) for opener in OPENERS):
                raise _NotYet
            return self._bare_calls(rest) if self._may_be_bare else ([], 0)
        except _NotYet:
            if not is_end:
                raise
            return [], 0

    def _calls_after_opener(self, rest: str, opener: str, is_end: bool) -> tuple[list[Call], int]:
        body = rest[len(opener) :].lstrip()
        start, name = len(rest) - len(body), None
        if opener == MISTRAL and body[:1] not in ("[", "{", ""):
            match = _NAME.match(body)
            if match is None:
                if _HALF_NAME.fullmatch(body):
                    raise _NotYet
                return [], 0
            start, name = start + match.end(), match[1]
        elif body[:1] not in ("[", "{", ""):
            return [], 0
        end = self._json.find(rest, start)
        calls = _calls(rest[start:end], name)
        return calls, _after_closer(rest, end, is_end) if opener == HERMES else end

    def _bare_calls(self, rest: str) -> tuple[list[Call], int]:
        match = _BARE.match(rest)
        if match is None:
            if _HALF_BARE.fullmatch(rest):
                raise _NotYet
            return [], 0
        key = rest[match.end() :]
        if not key.startswith(_KEYS):
            if any(one.startswith(key) for one in _KEYS):
                raise _NotYet
            return [], 0
        end = self._json.find(rest, 0)
        calls = _calls(rest[:end], None)
        # Without a mark, it may just as well be an answer in JSON.
        return (calls, end) if all(call.name in self._names for call in calls) else ([], 0)


class _JsonEnd:
    """Finds the end of a JSON value in brackets; continues where it stopped once there is more text."""

    def __init__(self) -> None:
        self._next: int | None = None
        self._depth = 0
        self._is_text = self._is_escaped = False

    def find(self, text: str, start: int) -> int:
        """Return the index after the value. Raises _NotYet."""
        position = start if self._next is None else self._next
        while position < len(text) and (self._depth or self._next is None):
            self._read(text[position])
            position += 1
            self._next = position
        if self._depth or self._next is None:
            raise _NotYet
        return self._next

    def _read(self, char: str) -> None:
        if self._is_escaped:
            self._is_escaped = False
        elif char == "\\":
            self._is_escaped = self._is_text
        elif char == '"':
            self._is_text = not self._is_text
        elif not self._is_text:
            self._depth += (char in "[{") - (char in "]}")


def _after_closer(rest: str, end: int, is_end: bool) -> int:
    after = rest[end:].lstrip()
    if after.startswith(CLOSER):
        return len(rest) - len(after) + len(CLOSER)
    if CLOSER.startswith(after) and not is_end:
        raise _NotYet
    return end


def _text_length(text: str, is_end: bool) -> int:
    """Return how much of a text that does not start with a call is certainly text."""
    positions = [at for opener in OPENERS if (at := text.find(opener, 1)) > 0]
    if positions or is_end:
        return min(positions, default=len(text))
    longest = max(map(len, OPENERS)) - 1
    half_openers = [
        at for at in range(max(1, len(text) - longest), len(text)) if any(o.startswith(text[at:]) for o in OPENERS)
    ]
    return min(half_openers, default=len(text))


def _calls(text: str, name: str | None) -> list[Call]:
    """Return the calls in a JSON text: a call, a list of calls, or the arguments of `name`. Empty if it has none."""
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
        if name is not None:
            return [Call(name, _arguments(value))]
        return [_call(one) for one in (value if isinstance(value, list) else [value])]
    except (ValueError, RecursionError):
        return []


def _call(value: Any) -> Call:
    if isinstance(value, dict) and isinstance(value.get("function"), dict):
        value = value["function"]
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        raise ValueError("not a call")
    return Call(value["name"], _arguments(value.get("arguments", value.get("parameters"))))


def _arguments(value: Any) -> str:
    """Return the arguments as JSON text; some models write them as a string that holds JSON."""
    if isinstance(value, str):
        value = json.loads(value, parse_constant=_refuse_constant)
    if not isinstance(value, dict):
        raise ValueError("not arguments")
    return json.dumps(value, ensure_ascii=False)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")
