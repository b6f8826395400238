"""A lock for many at once or one alone, in the order in which they came."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager


class FairLock:
    """Who comes alone waits for those before it and holds up those after it: nobody waits for ever."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._queue: deque[object] = deque()
        self._sharing = 0
        self._is_alone = False

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Together with others that share it. Blocks."""
        self.share()
        try:
            yield
        finally:
            self.unshare()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Together with nobody. Blocks."""
        self._enter(alone=True)
        try:
            yield
        finally:
            with self._condition:
                self._is_alone = False
                self._condition.notify_all()

    def share(self) -> None:
        """As `shared`, until `unshare`, which another thread may call. Blocks."""
        self._enter(alone=False)

    def unshare(self) -> None:
        """Once for each `share`."""
        with self._condition:
            self._sharing -= 1
            self._condition.notify_all()

    def _enter(self, *, alone: bool) -> None:
        place = object()
        with self._condition:
            self._queue.append(place)
            while self._queue[0] is not place or self._is_alone or (alone and self._sharing):
                self._condition.wait()
            self._queue.popleft()
            if alone:
                self._is_alone = True
            else:
                self._sharing += 1
            # The next in the queue may share it, too.
            self._condition.notify_all()
