"""Reads streamed answers, with the time at which their events came."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import requests


def events(response: requests.Response) -> Iterator[dict[str, Any] | None]:
    """Yield the server-sent events as they arrive; None for `[DONE]`."""
    for line in response.iter_lines():
        if line.startswith(b"data: "):
            data = line.removeprefix(b"data: ")
            yield None if data == b"[DONE]" else json.loads(data)


def answer_events(response: requests.Response) -> list[dict[str, Any]]:
    """Return the events of a whole stream of `POST /inference`, which has no `[DONE]`."""
    return [event for event in events(response) if event is not None]


class Reader:
    """Reads a stream to its end in its own thread."""

    def __init__(self, response: requests.Response) -> None:
        self.events: list[dict[str, Any] | None] = []
        self.ended_at = 0.0
        self.has_begun = threading.Event()
        self._thread = threading.Thread(target=self._read, args=[response], daemon=True)
        self._thread.start()

    def _read(self, response: requests.Response) -> None:
        for event in events(response):
            self.events.append(event)
            self.has_begun.set()
        self.ended_at = time.monotonic()

    def read(self, timeout_s: float = 60) -> list[dict[str, Any] | None]:
        """Return all events once the stream has ended."""
        self._thread.join(timeout_s)
        assert not self._thread.is_alive(), f"the stream has not ended after {timeout_s} s: {self.events[-1:]}"
        return self.events
