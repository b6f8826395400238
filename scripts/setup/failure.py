"""The one failure that a step may end in."""

from __future__ import annotations

from pathlib import Path


class SetupError(Exception):
    """What went wrong and what to do, in a sentence; `log` holds the whole output, `exit_code` goes to the shell."""

    def __init__(self, message: str, *, exit_code: int = 1, log: Path | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.exit_code = exit_code
        self.log = log
