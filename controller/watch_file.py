"""Notices that a file was changed, and has come to rest."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

log = logging.getLogger(__name__)

# Editors replace a file in one go, scripts write it piece by piece: two looks that see the same mean that it is whole.
LOOK_EVERY_S = 1.0
_Stamp: TypeAlias = tuple[int, int, int] | None


class FileWatch:
    """Calls `on_change` in a thread of its own, a second or two after each change.

    It looks instead of being told: that works for files that were moved into place, for mounted and network folders.
    """

    def __init__(self, path: Path, on_change: Callable[[], None]) -> None:
        self._path = path
        self._on_change = on_change
        self._over = threading.Event()
        self._known = self._seen = self._stamp()

    def start(self) -> None:
        """Begin to look."""
        threading.Thread(target=self._loop, name=f"watch {self._path.name}", daemon=True).start()

    def close(self) -> None:
        """Stop looking."""
        self._over.set()

    def look(self) -> None:
        """One look; `on_change` when the last two saw the same new file."""
        before, self._seen = self._seen, self._stamp()
        if self._seen is not None and self._seen == before and self._seen != self._known:
            self._known = self._seen
            self._on_change()

    def _loop(self) -> None:
        while not self._over.wait(LOOK_EVERY_S):
            try:
                self.look()
            except Exception:  # the thread's outermost loop: it must outlive any fault
                log.exception("%s could not be read anew", self._path)

    def _stamp(self) -> _Stamp:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino
