"""The values that go in and out of the source store, and the one job they belong to."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from controller.errors import Cancelled

_REPORT_EVERY_S = 0.1
_WAIT_SLICE_S = 0.1


@dataclass(frozen=True)
class Progress:
    """How far one phase ("downloading", "unpacking" or "verifying") of a fetch is."""

    phase: str
    done_bytes: int
    total_bytes: int | None


@dataclass(frozen=True)
class StoredSource:
    """Files that are whole and on this disk; `path` (a file or a folder) is what a container mounts read-only."""

    path: Path
    content_hash: str
    total_bytes: int
    files: tuple[str, ...]


@dataclass(frozen=True)
class Fetched:
    """What a fetcher learnt: file or folder, facts for the manifest, and the checksums its files must have."""

    single_file: bool
    facts: Mapping[str, str] = field(default_factory=dict)
    sha256: Mapping[str, str] = field(default_factory=dict)


class Job:
    """One fetch under way: where it writes, whom it tells, and whether it is still wanted."""

    def __init__(
        self,
        folder: Path,
        *,
        on_progress: Callable[[Progress], None],
        cancelled: Callable[[], bool],
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.folder = folder
        self.files = folder / "files"
        self.work = folder / "work"
        self.needed_bytes: int | None = None
        self._on_progress = on_progress
        self._cancelled = cancelled
        self._sleep = sleep
        self._last_phase = ""
        self._last_report_s = 0.0

    def check(self) -> None:
        """Raise Cancelled when nobody wants this fetch any more."""
        if self._cancelled():
            raise Cancelled("The download was cancelled; what has come is kept, and the next one goes on from it.")

    def report(self, phase: str, done_bytes: int, total_bytes: int | None) -> None:
        """Pass the progress on, at most ten times a second, but always the first and the last of a phase."""
        self.check()
        if phase != "verifying":
            self.needed_bytes = None if total_bytes is None else max(total_bytes - done_bytes, 0)
        now_s = time.monotonic()
        due = phase != self._last_phase or done_bytes == total_bytes or now_s - self._last_report_s >= _REPORT_EVERY_S
        if due:
            self._last_phase, self._last_report_s = phase, now_s
            self._on_progress(Progress(phase, done_bytes, total_bytes))

    def wait(self, seconds: float) -> None:
        """Sleep in slices, so that a cancel is noticed at once."""
        left_s = seconds
        while left_s > 0:
            self.check()
            self._sleep(min(left_s, _WAIT_SLICE_S))
            left_s -= _WAIT_SLICE_S
        self.check()
