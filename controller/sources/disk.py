"""Folders and free space of downloads, and errors of the disk as sentences."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

from controller.errors import SourceError

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT}


def make_readable(folder: Path) -> None:
    """Allow every user to read; the host does not know the container's user."""
    for parent, _, names in os.walk(folder):
        os.chmod(parent, 0o755)
        for name in names:
            os.chmod(os.path.join(parent, name), 0o644)


def remove_tree(folder: Path) -> int:
    """Remove a folder if it exists; returns the bytes of its files."""
    freed_bytes = 0
    for parent, _, names in os.walk(folder):
        freed_bytes += sum(os.lstat(os.path.join(parent, name)).st_size for name in names)
    if folder.exists():
        _remove(folder)
    return freed_bytes


def empty(folder: Path) -> None:
    """Make this an empty folder."""
    if folder.exists():
        _remove(folder)
    folder.mkdir(parents=True)


def _remove(folder: Path) -> None:
    try:
        shutil.rmtree(folder)
    except OSError as error:
        if error.errno != errno.ENOTEMPTY:
            raise
        # A pip that outlived its killed controller made one last file there; it cannot make another one.
        shutil.rmtree(folder)


def require_room(folder: Path, needed_bytes: int) -> None:
    """Raise SourceError if the disk has no room for so many bytes; for a check before the first byte is written."""
    free_bytes = shutil.disk_usage(folder).free
    if needed_bytes > free_bytes:
        raise no_room(folder, needed_bytes)


def no_room(folder: Path, needed_bytes: int | None) -> SourceError:
    """Return the error for a full disk, with the folder and the bytes that it needs."""
    free_bytes = shutil.disk_usage(folder).free
    need = "more room" if needed_bytes is None else f"{needed_bytes} bytes more"
    return SourceError(
        f"The disk is full: the download into {folder} needs {need}, {free_bytes} bytes are free. "
        "Free some space, or set ORCHESTRAR_DATA to a folder on a larger disk; the download will continue from there.",
        details={"folder": str(folder), "needed_bytes": needed_bytes, "free_bytes": free_bytes},
    )


def explain_os_error(error: OSError, folder: Path, needed_bytes: int | None) -> SourceError:
    """Turn an error of the operating system while writing under `folder` into a sentence."""
    if error.errno in _NO_ROOM:
        return no_room(folder if folder.exists() else _existing_parent(folder), needed_bytes)
    reason = error.strerror or type(error).__name__
    where = error.filename or folder
    return SourceError(
        f"Cannot write {where}: {reason}. Check the folder's owner and permissions, or set ORCHESTRAR_DATA."
    )


def _existing_parent(folder: Path) -> Path:
    return next(parent for parent in folder.parents if parent.exists())
