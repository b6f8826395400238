"""One request's Python at a time: threads that could all run compete for the interpreter's lock at every call.

Without it, 16 connections to a stub got 0.71 times the answers per second, for 1.49 times the CPU per answer; before a
real embedding model the difference was within the noise (0.99 times). See docs/design/decisions/turnstile.md.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

# How long a thread waits for the turn. As many requests as may wait end within this time, unless one of them blocks.
PATIENCE_S = 0.03
MOST_WAITING = 24


class _Local(threading.local):
    is_inside = False
    token: object = None


class Turnstile:
    """Lets threads take turns at running; they give the turn up for known waits. Only speed depends on it.

    A thread that keeps the turn for longer than `patience_s` is blocked, by a slow client perhaps, and loses it. No
    thread waits long: if too many wait, or the turns change too slowly, a thread runs without the turn.
    """

    def __init__(self, patience_s: float = PATIENCE_S, most_waiting: int = MOST_WAITING) -> None:
        self._patience_s = patience_s
        self._most_waiting = most_waiting
        self._turn = threading.Lock()
        self._guard = threading.Lock()
        self._waiting = 0
        # A token of the holder's; a new one each time, so that a thread that lost its turn gives nothing back.
        self._holder: object = None
        self._local = _Local()

    @property
    def waiting(self) -> int:
        """Return how many threads wait for the turn."""
        return self._waiting

    @property
    def is_free(self) -> bool:
        """Return whether no thread has the turn."""
        return not self._turn.locked()

    @contextmanager
    def scope(self) -> Iterator[None]:
        """Hold the turn within the block, except where `away` and `leave` give it up."""
        self._local.is_inside = True
        self._enter()
        try:
            yield
        finally:
            self._local.is_inside = False
            self.leave()

    @contextmanager
    def away(self) -> Iterator[None]:
        """Let other threads run within the block, a wait without any lock held; then wait for the turn again.

        Does nothing outside of a `scope`.
        """
        if not self._local.is_inside:
            yield
            return
        self.leave()
        try:
            yield
        finally:
            self._enter()

    def leave(self) -> None:
        """Give the turn up until the end of the next `away` in this scope: for a wait that ends with a lock held."""
        token, self._local.token = self._local.token, None
        if token is None:
            return
        with self._guard:
            if self._holder is token:
                self._holder = None
                self._turn.release()

    def _enter(self) -> None:
        if self._turn.acquire(blocking=False):
            self._hold()
            return
        with self._guard:
            if self._waiting >= self._most_waiting:
                return
            self._waiting += 1
            holder = self._holder
        has_turn = self._turn.acquire(timeout=self._patience_s)
        with self._guard:
            self._waiting -= 1
            if has_turn or self._holder is holder is not None:
                self._hold()

    def _hold(self) -> None:
        self._holder = self._local.token = object()


# The interpreter has one lock, so there is one turnstile.
TURNSTILE = Turnstile()
