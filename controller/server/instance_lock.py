"""One controller per Docker host and project: a lock that the system lets go of when its holder dies."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from controller.errors import InstanceRuns

DEFAULT_SOCKET = "unix:///var/run/docker.sock"
MAX_NOTE_BYTES = 256


@dataclass(frozen=True)
class InstanceLock:
    """The held lock. It lives as long as any descriptor of its file does, so a child has to `drop` its copy."""

    path: Path
    descriptor: int

    def drop(self) -> None:
        """Close this process's descriptor, for a child: the parent goes on holding the lock."""
        os.close(self.descriptor)

    def release(self) -> None:
        """Let go of it and leave no file; whoever holds the file open meanwhile looks again (see `take`)."""
        self.path.unlink(missing_ok=True)
        os.close(self.descriptor)


def take(project: str, url: str, environ: Mapping[str, str]) -> InstanceLock:
    """Take the lock of this project on this Docker host, or raise InstanceRuns at once with its holder's pid.

    `url` is what the holder is reached at, for the words of that error. Raises OSError when no folder can be had.
    """
    host = docker_host(environ)
    name = f"{project}-{hashlib.sha256(host.encode()).hexdigest()[:12]}.lock"
    path = _folder(environ) / name
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            note = os.pread(descriptor, MAX_NOTE_BYTES, 0).decode(errors="replace").strip()
            os.close(descriptor)
            raise InstanceRuns(_refusal(project, host, note)) from None
        if _is_at(path, descriptor):
            break
        os.close(descriptor)
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()} {url}\n".encode(), 0)
    return InstanceLock(path, descriptor)


def docker_host(environ: Mapping[str, str]) -> str:
    """The address that docker commands go to, the same text for whatever names the same socket."""
    found = environ.get("DOCKER_HOST") or _context_host(environ) or DEFAULT_SOCKET
    scheme, _, path = found.partition("://")
    return f"unix://{os.path.realpath(path)}" if scheme == "unix" else found


def _context_host(environ: Mapping[str, str]) -> str | None:
    """The address of the chosen docker context; None for the default one, or where it cannot be told."""
    folder = Path(environ.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker"))
    with suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
        chosen = environ.get("DOCKER_CONTEXT") or json.loads((folder / "config.json").read_bytes())["currentContext"]
        key = hashlib.sha256(chosen.encode()).hexdigest()
        meta = json.loads((folder / "contexts" / "meta" / key / "meta.json").read_bytes())
        return str(meta["Endpoints"]["docker"]["Host"])
    return None


def _folder(environ: Mapping[str, str]) -> Path:
    """The user's state folder, or one in the system's folder for such things where that cannot be written."""
    failure: OSError | None = None
    for folder in _candidates(environ):
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = folder.lstat()
            # In a folder that all may write, somebody else may have been there first.
            if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and os.access(folder, os.W_OK):
                return folder
            failure = PermissionError(f"{folder} is not a folder of this user's to write to")
        except OSError as exc:
            failure = exc
    raise failure or OSError("there is no folder for the lock")


def _candidates(environ: Mapping[str, str]) -> Iterator[Path]:
    state = environ.get("XDG_STATE_HOME", "")
    if os.path.isabs(state):
        yield Path(state) / "orchestrar"
    home = os.path.expanduser("~")
    if os.path.isabs(home):
        yield Path(home) / ".local" / "state" / "orchestrar"
    yield Path(tempfile.gettempdir()) / f"orchestrar-{os.geteuid()}"


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether the locked file is still the one of this name: its last holder may have removed it meanwhile."""
    try:
        return os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _refusal(project: str, host: str, note: str) -> str:
    pid, _, url = note.partition(" ")
    if not pid.isdigit():
        who, end = "another controller, which has just started,", "stop that one first"
    else:
        who = f"a controller with pid {pid} ({url})"
        end = f"stop that one first (`make down` where it was started, or `kill {pid}`)"
    return (
        f"{who} already minds the project {project} on {host}, and each of two would stop what the other one uses; "
        f"{end}, or give this one a project of its own: ORCHESTRAR_PROJECT={project}-2"
    )
