"""Reads a GGUF file's header without any library: its metadata and the sizes of its tensors."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

from runner.engines.memory import MIB

MAGIC = b"GGUF"
# The format's number of a value type → how `struct` unpacks it (always little-endian here).
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
# A longer string means a damaged file: names and templates are shorter.
_LONGEST_STRING = 16 * MIB
_MOST_ITEMS = 16 * MIB


@dataclass(frozen=True)
class GgufHeader:
    """The metadata, with all arrays as lists, and the number of parameters."""

    metadata: dict[str, Any]
    parameters: int

    def of_model(self, key: str, default: Any = None) -> Any:
        """Return a value of the model's architecture, such as `block_count`."""
        return self.metadata.get(f"{self.metadata.get('general.architecture')}.{key}", default)


def is_gguf(path: Path) -> bool:
    """Tell whether the file begins like a GGUF file."""
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def read_header(path: Path) -> GgufHeader:
    """Read only the header, at most a few megabytes. Raises ValueError if the file is damaged or too new."""
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise ValueError(f"{path.name} is not a GGUF file")
        version = _scalar(file, "I")
        if version not in (2, 3):
            raise ValueError(f"{path.name} has GGUF version {version}, but only 2 and 3 are supported")
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
        return _scalar(file, _struct_code(kind))
    kind, count = _scalar(file, "I"), _count(file)
    if kind == _STRING:
        return _strings(file, count)
    if kind == _ARRAY:
        return [_value(file, kind) for _ in range(count)]
    code = _struct_code(kind)
    return list(struct.unpack(f"<{count}{code}", _read(file, struct.calcsize(f"<{code}") * count)))


def _struct_code(kind: int) -> str:
    if kind not in _SCALARS:
        raise ValueError(f"a value has the unknown type {kind}; the file is damaged")
    return _SCALARS[kind]


def _tensor_size(file: BinaryIO) -> int:
    _string(file)
    size: int = prod(_scalar(file, "Q") for _ in range(_scalar(file, "I")))
    _read(file, 12)  # Its type and its position in the file.
    return size


def _string(file: BinaryIO) -> str:
    length = _scalar(file, "Q")
    if length > _LONGEST_STRING:
        raise ValueError("a text has an impossible length; the file is damaged")
    return _read(file, length).decode("utf-8", "replace")


def _strings(file: BinaryIO, count: int) -> list[str]:
    """Read many texts: a vocabulary has hundreds of thousands, so this calls as little as it can."""
    read, texts = file.read, []
    for _ in range(count):
        length = int.from_bytes(read(8), "little")
        if length > _LONGEST_STRING:
            raise ValueError("a text has an impossible length; the file is damaged")
        data = read(length)
        if len(data) < length:
            raise ValueError("the file ends too early; it is damaged")
        texts.append(data.decode("utf-8", "replace"))
    return texts


def _count(file: BinaryIO) -> int:
    count: int = _scalar(file, "Q")
    if count > _MOST_ITEMS:
        raise ValueError("a list has an impossible length; the file is damaged")
    return count


def _scalar(file: BinaryIO, code: str) -> Any:
    return struct.unpack(f"<{code}", _read(file, struct.calcsize(code)))[0]


def _read(file: BinaryIO, count: int) -> bytes:
    data = file.read(count)
    if len(data) < count:
        raise ValueError("the file ends too early; it is damaged")
    return data
