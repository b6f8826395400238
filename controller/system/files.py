"""Writing small files: readers, crashes and power cuts never meet a half-written one."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from controller.errors import FilesUnwritable


def write_atomic(path: Path, text: str) -> None:
    """Replace the file by `text`, readable for all; after an OSError (a full disk) the old file is unchanged."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
        fsync_folder(path.parent)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(name)
        raise


def fsync_folder(folder: Path) -> None:
    """Sync a folder, so that the names in it survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Turn an OSError within the block into FilesUnwritable."""
    try:
        yield
    except OSError as exc:
        raise FilesUnwritable(
            f"the controller cannot write its files ({exc.strerror or exc}: {exc.filename or folder}); free some space "
            "there or grant it write permission; running models still serve"
        ) from exc
