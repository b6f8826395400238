"""Notices that a file was changed, and has come to rest."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from controller.system.background import BackgroundLoop

# Editors replace a file in one go, scripts write it piece by piece: two looks that see the same mean that it is whole.
LOOK_EVERY_S = 1.0
# What kept a change from being followed may take minutes to pass: a Docker that is away, a full disk.
LOOKS_UNTIL_AGAIN = 10
Stamp: TypeAlias = tuple[int, int, int] | None


def stamp_of(path: Path) -> Stamp:
    """What tells one content of a file from another, without reading it; None when there is no file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


class FileWatch:
    """Calls `on_change` in a thread of its own, a second or two after each change since `known`, removal included, and
    every 10 s while the last one `is_pending`.

    It looks instead of being told: that works for files that were moved into place, for mounted and network folders.
    """

    def __init__(
        self, path: Path, known: Stamp, on_change: Callable[[], None], is_pending: Callable[[], bool] = lambda: False
    ) -> None:
        self._path = path
        self._on_change = on_change
        self._is_pending = is_pending
        self._closed = threading.Event()
        self._loop = BackgroundLoop(f"watch {path.name}", self.look, lambda: not self._closed.wait(LOOK_EVERY_S))
        self._known = self._seen = known
        self._looks_pending = 0

    def start(self) -> None:
        """Begin to look."""
        self._loop.start()

    def close(self) -> None:
        """Stop looking."""
        self._closed.set()

    def look(self) -> None:
        """One look; `on_change` when the last two saw the same new file."""
        before, self._seen = self._seen, stamp_of(self._path)
        if self._seen != before:
            return
        self._looks_pending = self._looks_pending + 1 if self._is_pending() else 0
        if self._seen != self._known or self._looks_pending >= LOOKS_UNTIL_AGAIN:
            self._known, self._looks_pending = self._seen, 0
            self._on_change()
