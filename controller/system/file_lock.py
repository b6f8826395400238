"""One holder of a lock file at a time, across threads and processes."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from controller.errors import ModelBusy

_POLL_S = 0.1


@contextmanager
def hold(path: Path, wait: Callable[[float], object]) -> Iterator[None]:
    """Hold the lock file, calling `wait(seconds)` between tries; raises what that raises."""
    with _opened(path) as descriptor:
        while not _take(descriptor):
            wait(_POLL_S)
        yield


@contextmanager
def hold_at_once(path: Path, busy: str) -> Iterator[None]:
    """Hold the lock file, or raise ModelBusy with the sentence `busy` when somebody else does."""
    with _opened(path) as descriptor:
        if not _take(descriptor):
            raise ModelBusy(busy)
        yield


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    # The file stays: removing a lock file lets two holders lock two different files of one name.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _take(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
