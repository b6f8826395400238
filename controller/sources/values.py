"""The values that go in and out of the source store, and the job that carries one fetch."""

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
    """The progress of one phase of a fetch: "downloading", "unpacking" or "verifying"."""

    phase: str
    done_bytes: int
    total_bytes: int | None


@dataclass(frozen=True)
class StoredSource:
    """Complete files on this disk; a container mounts `path` (a file or a folder) read-only."""

    path: Path
    content_hash: str
    total_bytes: int
    files: tuple[str, ...]
    is_selection: bool = False
    """Whether `path` is a folder of which only `files` belong to the model, so that a container mounts only these."""
    choice: str = ""
    """Which of several files of the source these are, and why; empty if there was nothing to choose."""


@dataclass(frozen=True)
class WeightsRoom:
    """How many bytes a model's weights may have if there is a choice; `bound` says, in a sentence, what limits them."""

    most_bytes: int
    bound: str


@dataclass(frozen=True, kw_only=True)
class Taker:
    """What the engine that will load the files means for which files are fetched."""

    room: Callable[[], WeightsRoom | None] = lambda: None
    """Asked only if there is a choice between several files; None if it makes no difference to the engine."""
    reads_quantised: bool = False
    """Whether it may read safetensors of any method of quantisation, such as AWQ."""


@dataclass(frozen=True)
class FetchResult:
    """The result of a fetcher: file or folder, facts for the manifest, and the checksums that the files must have."""

    single_file: bool
    facts: Mapping[str, str] = field(default_factory=dict)
    sha256: Mapping[str, str] = field(default_factory=dict)


class Job:
    """One running fetch: where it writes, its progress, and whether it was cancelled."""

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
        """Raise Cancelled if the caller has cancelled this fetch."""
        if self._cancelled():
            raise Cancelled("The download was cancelled; the next one will resume it.")

    def report(self, phase: str, done_bytes: int, total_bytes: int | None) -> None:
        """Report the progress, at most ten times a second, but always the first and the last of a phase."""
        self.check()
        if phase != "verifying":
            self.needed_bytes = None if total_bytes is None else max(total_bytes - done_bytes, 0)
        now_s = time.monotonic()
        is_edge = phase != self._last_phase or done_bytes == total_bytes
        is_due = is_edge or now_s - self._last_report_s >= _REPORT_EVERY_S
        if is_due:
            self._last_phase, self._last_report_s = phase, now_s
            self._on_progress(Progress(phase, done_bytes, total_bytes))

    def wait(self, seconds: float) -> None:
        """Sleep in slices, so that a cancel is noticed soon; raises Cancelled."""
        left_s = seconds
        while left_s > 0:
            self.check()
            self._sleep(min(left_s, _WAIT_SLICE_S))
            left_s -= _WAIT_SLICE_S
        self.check()
