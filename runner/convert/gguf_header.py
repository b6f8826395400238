"""What a GGUF file says of itself: its metadata and the sizes of its tensors, read without any library."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

MAGIC = b"GGUF"
# The format's numbers for value types, and how each is packed (always little-endian here).
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
# A longer one is damage, not a name or a template.
_LONGEST_STRING = 16 * 1024 * 1024
_MOST_ITEMS = 16 * 1024 * 1024


@dataclass(frozen=True)
class GgufHeader:
    """`metadata` without its long arrays (vocabularies), which are given as their length."""

    metadata: dict[str, Any]
    parameters: int

    def of_model(self, key: str, default: Any = None) -> Any:
        """A value of the architecture's own, such as `block_count`."""
        return self.metadata.get(f"{self.metadata.get('general.architecture')}.{key}", default)


def is_gguf(path: Path) -> bool:
    """Whether the file begins as a GGUF file does."""
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def read_header(path: Path) -> GgufHeader:
    """Reads the header alone, a few megabytes at most. Raises ValueError for a file that is damaged or too new."""
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise ValueError(f"{path.name} is no GGUF file")
        version = _scalar(file, "I")
        if version not in (2, 3):
            raise ValueError(f"{path.name} is GGUF version {version}, known are 2 and 3")
        tensors, pairs = _count(file), _count(file)
        metadata = {}
        for _ in range(pairs):
            key = _string(file)
            metadata[key] = _value(file, _scalar(file, "I"))
        return GgufHeader(metadata, sum(_tensor_size(file) for _ in range(tensors)))


def _value(file: BinaryIO, kind: int) -> Any:
    if kind == _STRING:
        return _string(file)
    if kind != _ARRAY:
        return _scalar(file, _packed(kind))
    kind, count = _scalar(file, "I"), _count(file)
    if kind in (_STRING, _ARRAY):
        for _ in range(count):
            _value(file, kind)
        return count
    packed = _packed(kind)
    data = _read(file, struct.calcsize(packed) * count)
    return list(struct.unpack(f"<{count}{packed}", data)) if count <= 64 else count


def _packed(kind: int) -> str:
    if kind not in _SCALARS:
        raise ValueError(f"a value of unknown type {kind}; the file is damaged")
    return _SCALARS[kind]


def _tensor_size(file: BinaryIO) -> int:
    _string(file)
    size: int = prod(_scalar(file, "Q") for _ in range(_scalar(file, "I")))
    _read(file, 12)  # Its type and its place in the file.
    return size


def _string(file: BinaryIO) -> str:
    length = _scalar(file, "Q")
    if length > _LONGEST_STRING:
        raise ValueError("a text of impossible length; the file is damaged")
    return _read(file, length).decode("utf-8", "replace")


def _count(file: BinaryIO) -> int:
    count: int = _scalar(file, "Q")
    if count > _MOST_ITEMS:
        raise ValueError("a list of impossible length; the file is damaged")
    return count


def _scalar(file: BinaryIO, packed: str) -> Any:
    return struct.unpack(f"<{packed}", _read(file, struct.calcsize(packed)))[0]


def _read(file: BinaryIO, count: int) -> bytes:
    data = file.read(count)
    if len(data) < count:
        raise ValueError("the file ends too early; it is damaged")
    return data
