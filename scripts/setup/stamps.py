"""Content hashes, and small files written whole or not at all."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path


def text_hash(*parts: str) -> str:
    """Return a short hash over the parts and their order."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()[:32]


def tree_hash(root: Path, *, skip: Iterable[str] = ()) -> str:
    """Return a hash over what is below `root`, without caches, hidden files (but .dockerignore) and `skip`."""
    left_out = {"__pycache__", *skip}
    digest = hashlib.sha256()
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in left_out and not name.startswith("."))
        for name in sorted(files):
            if name.endswith(".pyc") or (name.startswith(".") and name != ".dockerignore"):
                continue
            path = Path(folder, name)
            digest.update(path.relative_to(root).as_posix().encode() + b"\0")
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:32]


def read_stamp(path: Path) -> str | None:
    """Return the stamp's text, or None if the step never finished."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return None


def write_stamp(path: Path, text: str) -> None:
    """Write atomically: a reader sees the old text or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(text + "\n", encoding="utf-8")
    os.replace(part, path)
