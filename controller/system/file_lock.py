"""One holder of a lock file at a time, across threads and processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from controller.errors import ModelBusy

POLL_S = 0.1


@contextmanager
def hold(path: Path, wait: Callable[[float], object]) -> Iterator[None]:
    """Hold the lock file, calling `wait(seconds)` between tries; raises what that raises."""
    lock = _lock(path)
    while not _try(lock):
        wait(POLL_S)
    with _released_at_the_end(lock):
        yield


@contextmanager
def hold_at_once(path: Path, busy: str) -> Iterator[None]:
    """Hold the lock file, or raise ModelBusy with the sentence `busy` if another thread or process holds it."""
    lock = _lock(path)
    if not _try(lock):
        raise ModelBusy(busy)
    with _released_at_the_end(lock):
        yield


def _lock(path: Path) -> FileLock:
    """Return a lock of its own for each call, so that two threads exclude each other and no hold is reentrant.

    On Linux the file stays after the release: its removal would let two holders lock two files of one name. A file
    system without `flock` raises OSError: filelock's substitute, a file that is simply there, outlives a killed holder.
    """
    return FileLock(path, mode=0o644, fallback_to_soft=False)


def _try(lock: FileLock) -> bool:
    """Return whether the lock could be taken now."""
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return False
    return True


@contextmanager
def _released_at_the_end(lock: FileLock) -> Iterator[None]:
    try:
        yield
    finally:
        lock.release()
