"""`file://`: files of this machine, used where they are."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

from controller.errors import AccessDenied, SourceError
from controller.registry.source_ref import FileSource
from controller.sources import weights
from controller.sources.split_files import parts_of
from controller.sources.values import StoredSource


def describe(ref: FileSource) -> StoredSource:
    """Describe the file or folder without reading contents; raises SourceError if a container could not use it."""
    try:
        path = ref.path.resolve(strict=True)
        single_file = path.is_file()
        paths = _parts(ref) if single_file else _walk(path)
        is_split = len(paths) > 1 and single_file
        stats = {file: file.stat() for file in paths}
    except OSError as error:
        raise SourceError(
            f"{ref}: {error.strerror or 'cannot be looked at'}. Check the path in models.yaml."
        ) from error
    except RuntimeError as error:
        raise SourceError(f"{ref}: its links form a circle.") from error
    base = paths[0].parent if single_file else path
    names = {file.relative_to(base).as_posix(): file for file in paths}
    _check_formats(ref, set(names), single_file)
    _check_readable(base if is_split else path, paths, is_split=is_split)
    lines = sorted(f"{name}\0{stats[file].st_size}\0{stats[file].st_mtime_ns}\n" for name, file in names.items())
    return StoredSource(
        path=base if is_split else path,
        content_hash=hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest(),
        total_bytes=sum(result.st_size for result in stats.values()),
        files=tuple(sorted(names)),
        is_selection=is_split,
    )


def _parts(ref: FileSource) -> list[Path]:
    """Return the file, or all parts of the model that it is a part of; raises SourceError if one is missing."""
    names = parts_of(ref.path.name)
    if len(names) == 1:
        return [ref.path.resolve(strict=True)]
    # By their own names: parts may be links to files of any name, as in the hub library's cache.
    folder = ref.path.parent.resolve(strict=True)
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise SourceError(
            f"{ref} is a part of a model that has {len(names)} parts, and {', '.join(missing[:3])} is missing. Put it "
            "beside the others, under this name."
        )
    return [folder / name for name in names]


def _walk(folder: Path) -> list[Path]:
    """Return all files below; raises SourceError for a link out of the folder, which a container could not follow."""

    def refuse(error: OSError) -> None:
        raise error

    paths: list[Path] = []
    for parent, folders, names in os.walk(folder, onerror=refuse):
        for name in [*folders, *names]:
            entry = Path(parent, name)
            if entry.is_symlink() and not entry.resolve(strict=True).is_relative_to(folder):
                raise SourceError(
                    f"{entry} is a link out of the folder, which a container cannot follow. "
                    f"Make a copy without links: cp -rL {folder} {folder}-copy"
                )
        paths += [path for name in names if (path := Path(parent, name)).is_file()]
    return paths


def _check_formats(ref: FileSource, names: set[str], single_file: bool) -> None:
    if not names:
        raise SourceError(f"{ref} has no files. Check the path in models.yaml.")
    pickles = sorted(name for name in names if weights.is_pickle(name, names))
    safe = any(weights.is_weights(name) or name.endswith(".xml") for name in names)
    if pickles and (single_file or not safe):
        raise SourceError(f"{ref}: {weights.refusal(pickles[0])}")


def _check_readable(path: Path, paths: list[Path], *, is_split: bool) -> None:
    """Raise AccessDenied unless every user may read the files: the container's user owns none of them."""
    folders = (
        set() if is_split else {parent for file in paths for parent in file.parents if parent.is_relative_to(path)}
    )
    unreadable = [file for file in paths if not file.stat().st_mode & stat.S_IROTH]
    unreadable += [folder for folder in folders if folder.stat().st_mode & 0o005 != 0o005]
    if unreadable:
        command = f"chmod o+r {' '.join(map(str, unreadable))}" if is_split else f"chmod -R o+rX {path}"
        raise AccessDenied(
            f"{sorted(unreadable)[0]} is not readable for the container's user (uid 10001). Make it readable: {command}"
        )
