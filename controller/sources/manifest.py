"""`complete.json`: the list of a download's files; where it exists, the download is complete."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from controller.sources.values import Job
from controller.system.files import fsync_folder, write_atomic

NAME = "complete.json"
_FORMAT = 1
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class FileFacts:
    """A file: its name relative to the folder, with `/`, its size and its checksum."""

    name: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Describes a complete download; `checksum` is compared with the `sha256` of models.yaml."""

    source: str
    content_hash: str
    checksum: str
    single_file: bool
    files: tuple[FileFacts, ...]
    facts: Mapping[str, str] = field(default_factory=dict)

    @property
    def total_bytes(self) -> int:
        """The bytes of all files."""
        return sum(file.size_bytes for file in self.files)


def content_hash(files: Iterable[FileFacts]) -> str:
    """Return the sha256 over names and contents, which does not depend on their order."""
    lines = sorted(f"{file.name}\0{file.sha256}\n" for file in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def checksum(files: tuple[FileFacts, ...], single_file: bool) -> str:
    """Return the sha256 of a single file, or the `content_hash` of a folder."""
    return files[0].sha256 if single_file else content_hash(files)


def measure(folder: Path, job: Job, *, durably: bool = True) -> tuple[FileFacts, ...]:
    """Hash every file under `folder`; if `durably`, contents and names survive a power cut afterwards."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return measure_files(folder, paths, job, durably=durably)


def measure_files(base: Path, paths: list[Path], job: Job, *, durably: bool) -> tuple[FileFacts, ...]:
    """Hash these files, named relative to `base`."""
    total_bytes = sum(path.stat().st_size for path in paths)
    done_bytes = 0
    facts: list[FileFacts] = []
    for path in paths:
        digest, size_bytes = _hash_file(path, job, done_bytes, total_bytes, durably)
        done_bytes += size_bytes
        facts.append(FileFacts(path.relative_to(base).as_posix(), size_bytes, digest))
    if durably:
        for parent in {base, *(path.parent for path in paths)}:
            fsync_folder(parent)
    return tuple(facts)


def _hash_file(path: Path, job: Job, before_bytes: int, total_bytes: int, durably: bool) -> tuple[str, int]:
    digest = hashlib.sha256()
    size_bytes = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            size_bytes += len(chunk)
            job.report("verifying", before_bytes + size_bytes, total_bytes)
        if durably:
            os.fsync(file.fileno())
    return digest.hexdigest(), size_bytes


def write(folder: Path, manifest: Manifest) -> None:
    """Write the manifest, as the last file of a download's folder."""
    content = {"format": _FORMAT, **asdict(manifest)}
    write_atomic(folder / NAME, json.dumps(content, indent=1, sort_keys=True) + "\n")


def read(folder: Path) -> Manifest | None:
    """Return the manifest of a complete download; None if there is none or it is not one of ours."""
    try:
        content = json.loads((folder / NAME).read_text(encoding="utf-8"))
        if content["format"] != _FORMAT:
            return None
        return Manifest(
            source=content["source"],
            content_hash=content["content_hash"],
            checksum=content["checksum"],
            single_file=content["single_file"],
            files=tuple(FileFacts(**file) for file in content["files"]),
            facts=content["facts"],
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def has_files(folder: Path, manifest: Manifest) -> bool:
    """Return whether every file of the manifest is under `folder` with its size; contents are not read."""
    try:
        return bool(manifest.files) and all(
            (folder / file.name).stat().st_size == file.size_bytes for file in manifest.files
        )
    except OSError:
        return False
