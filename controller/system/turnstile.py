"""One request's Python at a time: threads that all can run fight for the interpreter's lock at every call they make."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

# How long a thread waits for the turn: as many requests as may wait are over by then, unless one of them waits itself.
PATIENCE_S = 0.03
MOST_WAITING = 24


class _Mine(threading.local):
    is_inside = False
    held: object = None


class Turnstile:
    """Threads take turns at running, and give the turn up for known waits. Nothing depends on it but speed.

    One that keeps the turn for longer than `patience_s` waits for something itself, for a slow client perhaps, and
    loses it. And nobody waits for long: where too many do, or the turns change too slowly, a thread runs without.
    """

    def __init__(self, patience_s: float = PATIENCE_S, most_waiting: int = MOST_WAITING) -> None:
        self._patience_s = patience_s
        self._most_waiting = most_waiting
        self._taken = threading.Lock()
        self._guard = threading.Lock()
        self._waiting = 0
        self._holder: object = None
        self._mine = _Mine()

    @contextmanager
    def scope(self) -> Iterator[None]:
        """Hold the turn within the block, but for what `away` and `leave` give up."""
        self._mine.is_inside = True
        self._enter()
        try:
            yield
        finally:
            self._mine.is_inside = False
            self.leave()

    @contextmanager
    def away(self) -> Iterator[None]:
        """Others run within the block, a wait without any lock held; then it is this thread's turn again.

        Does nothing outside of a `scope`.
        """
        if not self._mine.is_inside:
            yield
            return
        self.leave()
        try:
            yield
        finally:
            self._enter()

    def leave(self) -> None:
        """Give the turn up, until the next `away` in this scope ends: for a wait that ends with a lock held."""
        held, self._mine.held = self._mine.held, None
        if held is None:
            return
        with self._guard:
            if self._holder is held:
                self._holder = None
                self._taken.release()

    def _enter(self) -> None:
        if self._taken.acquire(blocking=False):
            self._hold()
            return
        with self._guard:
            if self._waiting >= self._most_waiting:
                return
            self._waiting += 1
            seen = self._holder
        has_turn = self._taken.acquire(timeout=self._patience_s)
        with self._guard:
            self._waiting -= 1
            if has_turn or self._holder is seen is not None:
                self._hold()

    def _hold(self) -> None:
        self._holder = self._mine.held = object()


# The interpreter has one lock, so there is one turnstile.
TURNSTILE = Turnstile()
