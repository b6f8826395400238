"""Which line of a log says why its program ended; servers of others write further lines after that one."""

from __future__ import annotations

import re
from collections.abc import Sequence

# llama.cpp: `llama_model_load: error loading model: …`; our runner: `ERROR … cannot serve: …`.
_ERROR = re.compile(r"error\b[^:]*:\s*\S", re.IGNORECASE)
# A check that failed, or an exception that nothing caught; lines of addresses follow.
_CRASH = re.compile(r"GGML_ASSERT\(|what\(\):\s*\S")
# What a conversion reports, and a bar of dots.
_PROGRESS = re.compile(r'\{"phase"|\.+$')


def reason_of(log: Sequence[str], *, was_serving: bool) -> str | None:
    """Return the line with the reason; None if no line can be one.

    That is the last crash, else the last error of a program that never served, else the last line that is no progress:
    a server also logs errors that it answered, and those end nothing.
    """
    lines = [line for line in log if line.strip() and not _PROGRESS.match(line.strip())]
    patterns = [_CRASH] if was_serving else [_CRASH, _ERROR]
    for pattern in patterns:
        for line in reversed(lines):
            if pattern.search(line):
                return line.strip()
    return lines[-1].strip() if lines else None
