"""What the user sees: lines, the tail of a running command, the table at the end."""

from __future__ import annotations

import re
import shutil
import sys
import time
from pathlib import Path
from typing import TextIO

HEARTBEAT_S = 10.0
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Console:
    """Writes lines to `out`; for a running command one changing line on a terminal, else a line every ten seconds."""

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = out or sys.stdout
        self._is_terminal = self._out.isatty()
        self._started_at = self._shown_at = time.monotonic()
        self._line_is_open = False

    def say(self, text: str) -> None:
        """Print a line, in place of the changing one."""
        self._wipe()
        print(text, file=self._out, flush=True)

    def begin_command(self) -> None:
        """Start the clock of the running command's line."""
        self._started_at = self._shown_at = time.monotonic()

    def show_progress(self, tail: str) -> None:
        """Show how long the command has run and its last line of output; cheap to call often."""
        now = time.monotonic()
        if not self._is_terminal and now - self._shown_at < HEARTBEAT_S:
            return
        self._shown_at = now
        text = f"    … {now - self._started_at:.0f} s: {tail}" if tail else f"    … {now - self._started_at:.0f} s"
        if not self._is_terminal:
            print(text[:200], file=self._out, flush=True)
            return
        width = max(shutil.get_terminal_size().columns - 1, 20)
        self._out.write(f"\r\x1b[2K{text[:width]}")
        self._out.flush()
        self._line_is_open = True

    def end_command(self) -> None:
        self._wipe()

    def _wipe(self) -> None:
        if self._line_is_open:
            self._out.write("\r\x1b[2K")
            self._line_is_open = False


def last_lines(path: Path, count: int, *, start: int = 0) -> list[str]:
    """Return a log's last non-empty lines after byte `start`, without colours; of a progress bar its last state."""
    try:
        with path.open("rb") as log:
            size = log.seek(0, 2)
            log.seek(max(start, size - 16384))
            text = log.read().decode("utf-8", errors="replace")
    except OSError:
        return []
    lines = (line.rsplit("\r", 1)[-1].rstrip() for line in text.replace("\r\n", "\n").rstrip("\r").split("\n"))
    return [line for line in (_ESCAPES.sub("", line) for line in lines) if line.strip()][-count:]
