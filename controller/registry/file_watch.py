"""Notices a change of a file once the change is complete."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
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
    except (OSError, ValueError):  # ValueError: a name that no file can have.
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


class FileWatch:
    """Calls `on_change` in a thread of its own, a second or two after each change of a file (removals, too), and every
    10 s while the last one `is_pending`.

    It polls, which also works for files that are moved into place, and in mounted and network folders.
    """

    def __init__(
        self,
        name: str,
        files: Callable[[], Mapping[Path, Stamp]],
        on_change: Callable[[], None],
        is_pending: Callable[[], bool] = lambda: False,
    ) -> None:
        """`files` returns those to watch now, each with the stamp of the content that is in force."""
        self._files = files
        self._on_change = on_change
        self._is_pending = is_pending
        self._closed = threading.Event()
        self._loop = BackgroundLoop(f"watch {name}", self.look, lambda: not self._closed.wait(LOOK_EVERY_S))
        self._last_stamps = dict(files())
        self._reported: dict[Path, Stamp] = {}
        """The stamps at the last call of `on_change`, in force or refused since."""
        self._looks_pending = 0

    def start(self) -> None:
        """Start the thread."""
        self._loop.start()

    def close(self) -> None:
        """End the thread soon; returns at once."""
        self._closed.set()

    def look(self) -> None:
        """Look once; calls `on_change` if this look and the one before saw the same new files."""
        files = self._files()
        before, self._last_stamps = self._last_stamps, {path: stamp_of(path) for path in files}
        if self._last_stamps != before:
            return
        self._looks_pending = self._looks_pending + 1 if self._is_pending() else 0
        in_force = {**files, **self._reported}
        is_new = any(stamp != in_force[path] for path, stamp in self._last_stamps.items())
        if is_new or self._looks_pending >= LOOKS_UNTIL_RETRY:
            self._reported, self._looks_pending = dict(self._last_stamps), 0
            self._on_change()
