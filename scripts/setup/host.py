"""The kind of machine this is, as far as installing and starting an engine depends on it."""

from __future__ import annotations

import getpass
import os
import shlex
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Host:
    """`init` is the program that starts services here: "systemd", "service", or "" if there is none."""

    is_root: bool
    distributions: frozenset[str]
    init: str
    user: str

    @property
    def installs_packages(self) -> bool:
        """Whether the set-up may install the distribution's packages: root on Debian, Ubuntu or a derivative."""
        return self.is_root and bool(self.distributions & {"debian", "ubuntu"})

    @classmethod
    def detect(cls) -> Host:
        """Look at the running machine."""
        return cls(
            is_root=os.geteuid() == 0,
            distributions=parse_os_release(_read(Path("/etc/os-release"))),
            init=_init_system(),
            user=_user_name(),
        )


def parse_os_release(text: str) -> frozenset[str]:
    """Return the distribution's id and those it derives from (`ID` and `ID_LIKE`)."""
    ids: set[str] = set()
    for line in text.splitlines():
        key, _, value = line.partition("=")
        if key in ("ID", "ID_LIKE"):
            ids.update(" ".join(shlex.split(value)).lower().split())
    return frozenset(ids)


def _init_system() -> str:
    if Path("/run/systemd/system").is_dir():
        return "systemd"
    return "service" if _read(Path("/proc/1/comm")).strip() in ("init", "openrc-init", "runit") else ""


def _user_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.geteuid())


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
