"""How much memory this container may use, and how much this process has."""

from __future__ import annotations

import os
from pathlib import Path

# The container's own limit, as the kernel's two generations of control groups show it inside.
LIMIT_FILES = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
STATUS_FILE = Path("/proc/self/status")


def memory_limit_bytes(files: tuple[Path, ...] = LIMIT_FILES) -> int:
    """The container's memory limit, or the machine's memory where there is none."""
    machine_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for file in files:
        try:
            # Without a limit it is the word "max", or a number larger than any machine.
            return min(int(file.read_text()), machine_bytes)
        except (OSError, ValueError):
            continue
    return machine_bytes


def anonymous_bytes(file: Path = STATUS_FILE) -> int:
    """What this process has in memory that no file holds; 0 where the kernel does not tell."""
    for line in file.read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0
