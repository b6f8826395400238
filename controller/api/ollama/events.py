"""A stream of the OpenAI API, read event by event. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from controller.errors import UpstreamAnswered, UpstreamInvalid

MAX_EVENT_BYTES = 4 * 1024 * 1024
_DONE = b"[DONE]"


class EventReader:
    """Splits what arrives into events, wherever the pieces were cut."""

    def __init__(self) -> None:
        self._rest = b""
        self.is_done = False

    def feed(self, piece: bytes) -> Iterator[dict[str, Any]]:
        """The events that are whole now; sets `is_done` at the stream's own end, and gives nothing after it.

        Raises UpstreamAnswered for an error of the model's, UpstreamInvalid for what is no event.
        """
        *lines, self._rest = (self._rest + piece).split(b"\n")
        if len(self._rest) > MAX_EVENT_BYTES:
            raise UpstreamInvalid(f"the model sent an event of more than {MAX_EVENT_BYTES} bytes")
        for line in lines:
            name, _, value = line.partition(b":")
            if name != b"data" or self.is_done:
                continue
            if (data := value.strip()) == _DONE:
                self.is_done = True
            elif data:
                yield _event(data)


def _event(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as exc:
        raise UpstreamInvalid("the model sent an event that is no JSON") from exc
    if not isinstance(found, dict):
        raise UpstreamInvalid("the model sent an event that is no object")
    if error := found.get("error"):
        raise UpstreamAnswered(500, {"error": error if isinstance(error, dict) else {"message": str(error)}})
    return found
