"""The memory that a container uses, read from the kernel's files on this machine without a call of Docker."""

from __future__ import annotations

from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
# Docker's folders for a container's group: cgroups v1 or v2, with systemd or without it.
_FOLDERS = (
    "memory/docker/{id}",
    "memory/system.slice/docker-{id}.scope",
    "docker/{id}",
    "system.slice/docker-{id}.scope",
)
_USAGE = ("memory.usage_in_bytes", "memory.current")
_INACTIVE = ("total_inactive_file", "inactive_file")


def working_set_bytes(container_id: str, root: Path = ROOT) -> int | None:
    """Return the memory in use, without the file pages that were not used lately: the kernel drops those first.

    This is the difference that `docker stats` shows. None if the group cannot be read: it is gone, or on another
    machine.
    """
    for folder in _FOLDERS:
        group = root / folder.format(id=container_id)
        for usage, inactive in zip(_USAGE, _INACTIVE, strict=True):
            try:
                used_bytes = int((group / usage).read_text())
                fields = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
                return max(used_bytes - int(fields[inactive]), 0)
            except (OSError, ValueError, KeyError):
                continue
    return None
