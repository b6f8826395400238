"""A lock for many sharing threads or one exclusive thread, in order of arrival."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager


class FairLock:
    """An exclusive thread queues behind earlier ones and blocks later ones, so no thread starves."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._queue: deque[object] = deque()
        self._sharing_count = 0
        self._is_exclusive = False

    @contextmanager
    def sharing(self) -> Iterator[None]:
        """Hold the lock together with other sharing threads. Blocks."""
        self.acquire_shared()
        try:
            yield
        finally:
            self.release_shared()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the lock alone. Blocks."""
        self._enter(is_exclusive=True)
        try:
            yield
        finally:
            with self._condition:
                self._is_exclusive = False
                self._condition.notify_all()

    def acquire_shared(self) -> None:
        """Share the lock until `release_shared`, which another thread may call. Blocks."""
        self._enter(is_exclusive=False)

    def release_shared(self) -> None:
        """Undo one `acquire_shared`."""
        with self._condition:
            self._sharing_count -= 1
            self._condition.notify_all()

    def _enter(self, *, is_exclusive: bool) -> None:
        place = object()
        with self._condition:
            self._queue.append(place)
            while self._queue[0] is not place or self._is_exclusive or (is_exclusive and self._sharing_count):
                self._condition.wait()
            self._queue.popleft()
            if is_exclusive:
                self._is_exclusive = True
            else:
                self._sharing_count += 1
            # The next in the queue may share it, too.
            self._condition.notify_all()
