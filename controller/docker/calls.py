"""Docker calls that always end: each has a deadline, and every error repeats what Docker wrote."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from python_on_whales import DockerClient
from python_on_whales.exceptions import DockerException

from controller.errors import DockerError, DockerTimeout, DockerUnavailable, OrchestrarError

KILL_AFTER_S = 2
# The exit codes of `timeout` (coreutils): 124 at the deadline; later it kills its whole group, itself included.
_TIMED_OUT = (124, 137, -9)
_NOT_FOUND = 127
_UNREACHABLE = (
    "cannot connect to the docker daemon",
    "is the docker daemon running",
    "permission denied while trying to connect",
    "error during connect",
    "connection refused",
    "dial unix",
)


def client(deadline_s: float, *, project: str, files: list[Path], folder: Path) -> DockerClient:
    """Return a client whose every call is killed after `deadline_s`, with its children.

    python-on-whales waits for its subprocess without a limit; `timeout` runs the docker command in a process group of
    its own, kills that group at the deadline and is reaped by the same wait.
    """
    return DockerClient(
        client_call=["timeout", f"--kill-after={KILL_AFTER_S}", f"{deadline_s:g}", "docker"],
        compose_files=[str(file) for file in files],
        compose_project_name=project,
        compose_project_directory=str(folder),
    )


@contextmanager
def docker_errors(doing: str, missing: type[DockerException] | tuple[()] = ()) -> Iterator[None]:
    """Turn python-on-whales' exceptions into ours; their messages begin with `doing` ("starting x").

    An exception of the kind `missing` ends the block silently: the object does not exist.
    """
    try:
        yield
    except DockerException as exc:
        if not isinstance(exc, missing):
            raise translate(exc, doing) from exc
    except (OSError, ValueError) as exc:
        # The system had no process or descriptor left, or python-on-whales cannot read Docker's answer.
        raise DockerError(f"{doing}: {exc}") from exc


def translate(exc: DockerException, doing: str) -> OrchestrarError:
    """Return the error of ours for a failed docker command."""
    message = last_line(exc.stderr or exc.stdout or "")
    if exc.return_code in _TIMED_OUT:
        return DockerTimeout(f"{doing}: Docker did not finish in time and the command was killed. Check `docker info`.")
    if exc.return_code == _NOT_FOUND:
        return DockerUnavailable(
            f"{doing}: the docker command was not found. Install Docker, or run `make up` as root."
        )
    if any(sign in (exc.stderr or "").lower() for sign in _UNREACHABLE):
        return DockerUnavailable(
            f"{doing}: Docker does not answer ({message}). Start Docker and check `docker info` as this user.",
            retry_after_s=5.0,
        )
    return DockerError(
        f"{doing}: {message or f'docker failed with exit code {exc.return_code}'}", details={"stderr": exc.stderr}
    )


def last_line(text: str) -> str:
    """Return the last line that is not blank."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""
