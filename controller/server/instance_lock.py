"""One controller per Docker host and project: a lock that the system releases when its holder dies."""

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
    """The lock while it is held: as long as any descriptor of its file is open, so a child has to `drop` its copy."""

    path: Path
    descriptor: int

    def drop(self) -> None:
        """Close a child's copy of the descriptor; the parent still holds the lock."""
        os.close(self.descriptor)

    def release(self) -> None:
        """Release the lock and remove its file; a process that has just opened that file tries again (see `take`)."""
        self.path.unlink(missing_ok=True)
        os.close(self.descriptor)


def take(project: str, url: str, environ: Mapping[str, str]) -> InstanceLock:
    """Take the lock of this project on this Docker host, or raise InstanceRuns at once with its holder's pid.

    `url` is this controller's address, which that error names to others. Raises OSError if no folder can be used.
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
    """Return the address that docker commands use, with one text for all names of the same socket."""
    address = environ.get("DOCKER_HOST") or _context_host(environ) or DEFAULT_SOCKET
    scheme, _, path = address.partition("://")
    return f"unix://{os.path.realpath(path)}" if scheme == "unix" else address


def _context_host(environ: Mapping[str, str]) -> str | None:
    """Return the address of the current docker context; None for the default one, and if it cannot be read."""
    folder = Path(environ.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker"))
    with suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
        context = environ.get("DOCKER_CONTEXT") or json.loads((folder / "config.json").read_bytes())["currentContext"]
        key = hashlib.sha256(context.encode()).hexdigest()
        meta = json.loads((folder / "contexts" / "meta" / key / "meta.json").read_bytes())
        return str(meta["Endpoints"]["docker"]["Host"])
    return None


def _folder(environ: Mapping[str, str]) -> Path:
    """Return the user's state folder, or one in the system's temporary folder if that cannot be written."""
    failure: OSError | None = None
    for folder in _candidates(environ):
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = folder.lstat()
            # In a folder that all users may write, another user may have made it first.
            if stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and os.access(folder, os.W_OK):
                return folder
            failure = PermissionError(f"{folder} is not a folder that this user owns and can write")
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
    """Return whether the locked file still has this name: its last holder may have removed it meanwhile."""
    try:
        return os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _refusal(project: str, host: str, note: str) -> str:
    pid, _, url = note.partition(" ")
    if not pid.isdigit():
        other, remedy = "another controller, which has just started,", "stop that one first"
    else:
        other = f"a controller with pid {pid} ({url})"
        remedy = f"stop that one first (`make down` in its folder, or `kill {pid}`)"
    return (
        f"{other} already manages the project {project} on {host}, and two would stop each other's models; "
        f"{remedy}, or give this one a project of its own: ORCHESTRAR_PROJECT={project}-2"
    )
