"""One file over HTTP, resumable: bytes that are on the disk are not downloaded again."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from controller.errors import SourceError
from controller.sources.disk import require_room
from controller.sources.values import Job
from controller.system.files import write_atomic

T = TypeVar("T")

TIMEOUT_CONNECT_S = 10.0
TIMEOUT_READ_S = 15.0
CHUNK_BYTES = 1 << 17

_RETRIES = 5
_BACKOFF_FIRST_S = 0.5
_BACKOFF_MOST_S = 30.0
_TRANSIENT_STATUSES = {408, 425, 429, 500, 502, 503, 504}


class Transient(Exception):
    """A failure after which a new attempt may succeed."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


@dataclass(frozen=True)
class Stream:
    """A response whose body has not been read yet; header names are case-insensitive."""

    status: int
    headers: Mapping[str, str]
    chunks: Iterator[bytes]


OpenStream = Callable[[Mapping[str, str]], AbstractContextManager[Stream]]
"""Sends a GET with these additional headers; raises Transient or SourceError, also while the body is being read."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """A file to fetch: `part` grows and becomes `path` once it is complete.

    `immutable` means that the address never has other bytes, so that a resumed download needs no validator.
    `before_bytes` and `all_bytes` are this file's place in the progress of a larger job.
    """

    label: str
    path: Path
    part: Path
    immutable: bool = False
    size_bytes: int | None = None
    before_bytes: int = 0
    all_bytes: int | None = None


def with_retries(job: Job, action: Callable[[], T], label: str, progress: Callable[[], int] = lambda: 0) -> T:
    """Run `action` until it raises no Transient; gives up after five retries in a row without new `progress`."""
    failures, highest = 0, progress()
    while True:
        job.check()
        try:
            return action()
        except Transient as error:
            failures = 1 if progress() > highest else failures + 1
            highest = max(highest, progress())
            if failures > _RETRIES:
                raise SourceError(f"{label}: {error}; given up after {failures} tries. Try again later.") from error
            backoff_s = _BACKOFF_FIRST_S * 2 ** (failures - 1)
            job.wait(min(max(backoff_s, error.retry_after_s or 0.0), _BACKOFF_MOST_S))


def download(job: Job, target: Target, open_stream: OpenStream) -> None:
    """Fetch the target's missing bytes; raises SourceError or Cancelled and keeps the bytes received so far."""
    with_retries(job, lambda: _attempt(job, target, open_stream), target.label, lambda: _size(target.part))
    target.path.parent.mkdir(parents=True, exist_ok=True)
    os.replace(target.part, target.path)
    _validator_file(target).unlink(missing_ok=True)


def raise_for_status(status: int, headers: Mapping[str, str], label: str) -> None:
    """Raise Transient for a status that may be temporary, SourceError for any other failure."""
    if status in _TRANSIENT_STATUSES:
        seconds = headers.get("Retry-After", "")
        raise Transient(f"the server answers {status}", float(seconds) if seconds.isdecimal() else None)
    if status not in (200, 206):
        raise SourceError(f"{label}: the server answers {status}.")


def _attempt(job: Job, target: Target, open_stream: OpenStream) -> None:
    start_bytes = _size(target.part)
    validator, known_bytes = _read_validator(target)
    if start_bytes and not target.immutable and validator is None:
        start_bytes = 0
    if start_bytes and start_bytes == (target.size_bytes or known_bytes):
        return
    headers = {"Accept-Encoding": "identity"}
    if start_bytes:
        headers["Range"] = f"bytes={start_bytes}-"
        if validator is not None and not target.immutable:
            headers["If-Range"] = validator
    with open_stream(headers) as stream:
        if stream.status == 416:
            target.part.unlink(missing_ok=True)
            raise Transient("the server has fewer bytes than before")
        raise_for_status(stream.status, stream.headers, target.label)
        _receive(job, target, stream, start_bytes)


def _receive(job: Job, target: Target, stream: Stream, offset_bytes: int) -> None:
    start_bytes, total_bytes = _extent(stream, offset_bytes, target)
    if start_bytes == 0:
        _write_validator(target, stream.headers, total_bytes)
    if total_bytes is not None:
        job.needed_bytes = total_bytes - start_bytes
        require_room(target.part.parent, total_bytes - start_bytes)
    all_bytes = target.all_bytes if target.all_bytes is not None else total_bytes
    done_bytes = start_bytes
    # Unbuffered: the bytes received must be in the file even if this process is killed.
    with target.part.open("ab" if start_bytes else "wb", buffering=0) as file:
        job.report("downloading", target.before_bytes + done_bytes, all_bytes)
        for chunk in stream.chunks:
            _write_all(file.fileno(), chunk)
            done_bytes += len(chunk)
            if total_bytes is not None and done_bytes > total_bytes:
                break
            job.report("downloading", target.before_bytes + done_bytes, all_bytes)
    if total_bytes is not None and done_bytes > total_bytes:
        target.part.unlink()
        raise Transient(f"the server sent more than the {total_bytes} bytes it announced")
    if total_bytes is not None and done_bytes < total_bytes:
        raise Transient(f"the connection ended after {done_bytes} of {total_bytes} bytes")


def _write_all(descriptor: int, chunk: bytes) -> None:
    view = memoryview(chunk)
    while view:
        view = view[os.write(descriptor, view) :]


def _extent(stream: Stream, offset_bytes: int, target: Target) -> tuple[int, int | None]:
    """Return where this body begins in the file, and the size of the whole file if it is known."""
    if stream.headers.get("Content-Encoding", "identity").lower() not in ("", "identity"):
        raise SourceError(
            f"{target.label}: the server compresses the file, which prevents a resume. Use another address."
        )
    length = stream.headers.get("Content-Length", "")
    length_bytes = int(length) if length.isdecimal() else None
    if stream.status == 200:
        total_bytes = length_bytes if target.size_bytes is None else target.size_bytes
        if length_bytes is not None and length_bytes != total_bytes:
            raise SourceError(f"{target.label}: it should have {total_bytes} bytes, the server sends {length_bytes}.")
        return 0, total_bytes
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", stream.headers.get("Content-Range", ""))
    if match is None or int(match[1]) != offset_bytes or offset_bytes == 0:
        target.part.unlink(missing_ok=True)
        raise Transient("the server sent another part of the file than the requested one")
    return offset_bytes, target.size_bytes if match[2] == "*" else int(match[2])


def _size(part: Path) -> int:
    try:
        return part.stat().st_size
    except FileNotFoundError:
        return 0


def _validator_file(target: Target) -> Path:
    return target.part.with_name(target.part.name + ".json")


def _write_validator(target: Target, headers: Mapping[str, str], total_bytes: int | None) -> None:
    """Store the version of the file before its first byte is written."""
    if target.immutable:
        return
    target.part.unlink(missing_ok=True)
    etag = headers.get("ETag", "")
    validator = etag if etag.startswith('"') else headers.get("Last-Modified")
    content = {"validator": validator, "total_bytes": total_bytes}
    write_atomic(_validator_file(target), json.dumps(content))


def _read_validator(target: Target) -> tuple[str | None, int | None]:
    try:
        content = json.loads(_validator_file(target).read_text(encoding="utf-8"))
        return content["validator"], content["total_bytes"]
    except (OSError, ValueError, KeyError, TypeError):
        return None, None
