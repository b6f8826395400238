"""Notices a change of a file once the change is complete."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from controller.system.background import BackgroundLoop

# Editors replace a file at once, scripts write it piece by piece: it is complete if two looks in a row see the same.
LOOK_EVERY_S = 1.0
# What prevents a change from taking effect, such as an unreachable Docker or a full disk, may last for minutes.
LOOKS_UNTIL_RETRY = 10
Stamp: TypeAlias = tuple[int, int, int] | None


def stamp_of(path: Path) -> Stamp:
    """Return what identifies the content of a file without reading it; None if there is no file."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


class FileWatch:
    """Calls `on_change` in a thread of its own, a second or two after each change since `stamp` (removals, too), and
    every 10 s while the last one `is_pending`.

    It polls, which also works for files that are moved into place, and in mounted and network folders.
    """

    def __init__(
        self, path: Path, stamp: Stamp, on_change: Callable[[], None], is_pending: Callable[[], bool] = lambda: False
    ) -> None:
        self._path = path
        self._on_change = on_change
        self._is_pending = is_pending
        self._closed = threading.Event()
        self._loop = BackgroundLoop(f"watch {path.name}", self.look, lambda: not self._closed.wait(LOOK_EVERY_S))
        self._stamp_in_force = self._last_stamp = stamp
        self._looks_pending = 0

    def start(self) -> None:
        """Start the thread."""
        self._loop.start()

    def close(self) -> None:
        """End the thread soon; returns at once."""
        self._closed.set()

    def look(self) -> None:
        """Look once; calls `on_change` if this look and the one before saw the same new file."""
        before, self._last_stamp = self._last_stamp, stamp_of(self._path)
        if self._last_stamp != before:
            return
        self._looks_pending = self._looks_pending + 1 if self._is_pending() else 0
        if self._last_stamp != self._stamp_in_force or self._looks_pending >= LOOKS_UNTIL_RETRY:
            self._stamp_in_force, self._looks_pending = self._last_stamp, 0
            self._on_change()
