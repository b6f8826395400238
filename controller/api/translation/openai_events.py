"""Server-sent events of an OpenAI stream, read from a body that comes in pieces. Its sender is not trusted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, TypeAlias

from controller.errors import UpstreamAnswered, UpstreamInvalid
from controller.proxy.model_errors import error_of

# A chunk holds a token or a few; embeddings and whole answers do not come as events.
MAX_EVENT_BYTES = 1024 * 1024
END = "[DONE]"
SILENCE = ":"
# An object of the stream, or one of the two marks above: its proper end, and a comment that keeps the line open.
Event: TypeAlias = dict[str, Any] | str


class EventReader:
    """Puts pieces together to whole events."""

    def __init__(self) -> None:
        self._partial_line = bytearray()
        self._data: list[bytes] = []
        self._data_bytes = 0

    def feed(self, piece: bytes) -> Iterator[Event]:
        """Return the events that this piece completes.

        Raises UpstreamInvalid for what is no event of an OpenAI stream, UpstreamAnswered for an error in it.
        """
        self._partial_line += piece
        if b"\n" in piece:
            *lines, last = bytes(self._partial_line).split(b"\n")
            self._partial_line = bytearray(last)
            for line in lines:
                yield from self._line(line.removesuffix(b"\r"))
        self._check_size()

    def _line(self, line: bytes) -> Iterator[Event]:
        if line.startswith(b":"):
            yield SILENCE
        elif line.startswith(b"data:"):
            self._data.append(line[5:].removeprefix(b" "))
            self._data_bytes += len(line)
            self._check_size()
        elif not line and self._data:
            data, self._data, self._data_bytes = b"\n".join(self._data), [], 0
            yield END if data == END.encode() else _object(data)

    def _check_size(self) -> None:
        if len(self._partial_line) + self._data_bytes > MAX_EVENT_BYTES:
            raise UpstreamInvalid(f"the model sent an event larger than {MAX_EVENT_BYTES} bytes")


def _object(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as exc:
        raise UpstreamInvalid("the model sent an event that is no JSON") from exc
    if not isinstance(value, dict):
        raise UpstreamInvalid("the model sent an event that is no object")
    if (error := error_of(value)) is not None:
        raise UpstreamAnswered(500, {"error": error})
    return value


def text_of(event: dict[str, Any]) -> str:
    """Return what an event adds to the first choice's text, of a chat or of a completion; empty if it adds none."""
    choice = _first_choice(event)
    delta = choice.get("delta")
    text = delta.get("content") if isinstance(delta, dict) else choice.get("text")
    return text if isinstance(text, str) else ""


def finish_reason_of(event: dict[str, Any]) -> str | None:
    """Return why the first choice ended; None while it goes on."""
    reason = _first_choice(event).get("finish_reason")
    return reason if isinstance(reason, str) else None


def usage_of(event: dict[str, Any]) -> dict[str, int] | None:
    """Return the count of tokens, if the event has one."""
    usage = event.get("usage")
    if not isinstance(usage, dict):
        return None
    prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if type(prompt) is not int or type(completion) is not int:
        return None
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _first_choice(event: dict[str, Any]) -> dict[str, Any]:
    choices = event.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    return first if isinstance(first, dict) else {}
