"""A container's memory as the kernel shows it on this machine: a file's read instead of a call of Docker's."""

from __future__ import annotations

from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
# Where engines put a container's group: with cgroups of the first version or the second, with systemd or without.
_FOLDERS = (
    "memory/docker/{id}",
    "memory/system.slice/docker-{id}.scope",
    "docker/{id}",
    "system.slice/docker-{id}.scope",
)
_USAGE = ("memory.usage_in_bytes", "memory.current")
_INACTIVE = ("total_inactive_file", "inactive_file")


def working_set_bytes(container_id: str, root: Path = ROOT) -> int | None:
    """What the container uses, less the pages of files that were not used lately, which the kernel drops first.

    The same difference as `docker stats` shows. None where the group cannot be read: gone, or in another machine.
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
