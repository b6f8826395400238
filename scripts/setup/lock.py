"""One set-up of a checkout at a time."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scripts.setup.console import Console


@contextmanager
def locked(folder: Path, console: Console) -> Iterator[int]:
    """Hold the folder's lock and yield its descriptor; while another set-up holds it, say so and wait.

    Commands of a set-up that was killed inherit the descriptor, so this waits for their end as well.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        _acquire(descriptor, console)
        yield descriptor
    finally:
        os.close(descriptor)


def _acquire(descriptor: int, console: Console) -> None:
    is_announced = False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EAGAIN):
                return  # a file system without locks: continue without one
        else:
            return
        if not is_announced:
            console.say(
                "another set-up of this checkout, or a command that one left behind, is still running; waiting for it"
            )
            console.begin_command()
            is_announced = True
        console.show_progress("waiting")
        time.sleep(0.2)
