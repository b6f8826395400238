"""How much memory this container may use, and how much this process uses."""

from __future__ import annotations

import os
from pathlib import Path

MIB = 1024 * 1024
# The container's own limit, as the two versions of control groups show it inside the container.
LIMIT_FILES = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
STATUS_FILE = Path("/proc/self/status")


def memory_limit_bytes(files: tuple[Path, ...] = LIMIT_FILES) -> int:
    """Return the container's memory limit, or the machine's memory if there is no limit."""
    machine_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for file in files:
        try:
            # Without a limit it is the word "max", or a number beyond any machine's memory.
            return min(int(file.read_text()), machine_bytes)
        except (OSError, ValueError):
            continue
    return machine_bytes


def anonymous_bytes(file: Path = STATUS_FILE) -> int:
    """Return how much memory this process has that no file backs; 0 if the kernel does not report it."""
    for line in file.read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0
