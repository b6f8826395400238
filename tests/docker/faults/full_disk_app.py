"""The controller on a disk that is full while the file ORCHESTRAR_TEST_FULL exists, which names the step that fails.

The steps of replacing a file: `open` a new one, `fsync` what was written, `rename` it. Only writes into the
controller's data and compose folders fail.
"""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

SWITCH = Path(os.environ["ORCHESTRAR_TEST_FULL"])
FOLDERS = tuple(f"{os.environ[name]}/" for name in ("ORCHESTRAR_DATA", "ORCHESTRAR_COMPOSE_DIR"))
_fsync = os.fsync


def no_space() -> OSError:
    return OSError(errno.ENOSPC, "No space left on device")


def step() -> str:
    try:
        return SWITCH.read_text()
    except OSError:
        return ""


def on_event(event: str, args: tuple[object, ...]) -> None:
    if event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        path, at = args[0], "open"
    elif event == "os.rename":
        path, at = args[1], "rename"
    else:
        return
    # Reading the switch is an `open` as well, in another folder.
    if str(path).startswith(FOLDERS) and step() == at:
        raise no_space()


def fsync(descriptor: int) -> None:
    if os.readlink(f"/proc/self/fd/{descriptor}").startswith(FOLDERS) and step() == "fsync":
        raise no_space()
    _fsync(descriptor)


os.fsync = fsync  # type: ignore[assignment]
sys.addaudithook(on_event)

from controller.app import create_app  # noqa: E402

__all__ = ["create_app"]
