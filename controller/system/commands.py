"""A long command of another program: its lines as they come, and its end at any moment."""

from __future__ import annotations

import queue
import subprocess
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

POLL_S = 0.5
# How long a command has to end after it was asked to.
END_S = 30.0


def follow(
    command: Sequence[str],
    *,
    on_line: Callable[[str], None],
    cancelled: Callable[[], bool],
    folder: Path | None = None,
    is_apart: bool = False,
) -> int | None:
    """Run the command to its end and return its exit code; None if `cancelled()` ended it.

    `on_line` gets each line of its output and errors. With `is_apart` no signal of a terminal reaches it. Raises
    OSError if it cannot be run.
    """
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=folder,
        start_new_session=is_apart,
    )
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    # In a thread, so that a silent command can be cancelled.
    reader = threading.Thread(target=_read, args=(process, lines), name=f"output of {command[0]}", daemon=True)
    reader.start()
    try:
        is_over = _pass_on(lines, on_line, cancelled)
    finally:
        _end(process)
        reader.join()
    return process.returncode if is_over else None


def _read(process: subprocess.Popen[bytes], lines: queue.SimpleQueue[str | None]) -> None:
    """Put the output's lines, then None."""
    assert process.stdout is not None
    with process.stdout as pipe:
        for line in pipe:
            lines.put(line.decode(errors="replace"))
    process.wait()
    lines.put(None)


def _pass_on(
    lines: queue.SimpleQueue[str | None], on_line: Callable[[str], None], cancelled: Callable[[], bool]
) -> bool:
    """Return whether the output has ended; False if the command was cancelled before."""
    while not cancelled():
        try:
            line = lines.get(timeout=POLL_S)
        except queue.Empty:
            continue
        if line is None:
            return True
        on_line(line)
    return False


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process if it still runs: by a request first, so that it can end its own commands."""
    process.terminate()
    try:
        process.wait(END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
