"""A GGUF model with its weights: one file, or all parts of a split one."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from runner.convert.gguf_header import GgufHeader, TensorEntry, read_header
from runner.convert.weights import Array
from runner.engine import EngineError, ModelUnfit

_PART = re.compile(r"-(\d{5})-of-(\d{5})(?=\.gguf$)", re.IGNORECASE)
_ALL_ROWS = slice(None)


@dataclass(frozen=True)
class _Tensor:
    entry: TensorEntry
    rows: Array
    """uint8 [rows, bytes of a row], mapped from the file."""


class GgufFile:
    """The files stay mapped: nothing is read before it is asked for."""

    def __init__(self, path: Path) -> None:
        """Open the file, or the first part and with it all others.

        Raises EngineError if a part is missing or a tensor is not whole, ValueError for a damaged header.
        """
        self.name = path.name
        self.header = read_header(path)
        self._tensors: dict[str, _Tensor] = {}
        for part in parts_of(path, self.header):
            self._add(part, self.header if part == path else read_header(part))
        self.parameters = sum(prod(tensor.entry.shape) for tensor in self._tensors.values())

    @property
    def names(self) -> frozenset[str]:
        """The names of all tensors."""
        return frozenset(self._tensors)

    def type_name(self, name: str) -> str:
        """Return the name of a tensor's type, such as `Q4_0`."""
        return str(_type(self._tensors[name].entry).name)

    def columns(self, name: str) -> int:
        """Return the length of a row."""
        return self._tensors[name].entry.shape[0]

    def row_count(self, name: str) -> int:
        """Return the number of rows."""
        return len(self._tensors[name].rows)

    def raw(self, name: str) -> Array:
        """Return a tensor's bytes, uint8 [rows, bytes of a row]."""
        return self._tensors[name].rows

    def values(self, name: str, rows: Any = _ALL_ROWS) -> Array:
        """Return these rows in float32, [rows, columns]; a tensor of one dimension has its values without rows."""
        from gguf import GGMLQuantizationType
        from gguf.quants import dequantize

        tensor = self._tensors[name]
        kind, part = _type(tensor.entry), tensor.rows[rows]
        if kind == GGMLQuantizationType.F32:
            values = part.view(np.float32)
        elif kind == GGMLQuantizationType.F16:
            values = part.view(np.float16).astype(np.float32)
        else:
            try:
                values = dequantize(part, kind)
            except NotImplementedError:
                raise ModelUnfit(f"{name} in {self.name} is {kind.name}, which cannot be read") from None
        result: Array = values[0] if len(tensor.entry.shape) == 1 else values
        return result

    def _add(self, path: Path, header: GgufHeader) -> None:
        data = np.memmap(path, dtype=np.uint8, mode="r").view(np.ndarray)[header.data_offset_bytes :]
        for entry in header.tensors:
            if entry.name in self._tensors:
                raise EngineError(f"{path.name} has the tensor {entry.name} twice; download it again")
            row_bytes, count = _row_bytes(entry, path), prod(entry.shape[1:])
            end = entry.offset_bytes + row_bytes * count
            if end > len(data):
                raise EngineError(f"{path.name} ends within the tensor {entry.name}; download it again")
            self._tensors[entry.name] = _Tensor(entry, data[entry.offset_bytes : end].reshape(count, row_bytes))


def parts_of(path: Path, header: GgufHeader) -> list[Path]:
    """Return all parts of a model, given its first one. Raises EngineError that names what is missing."""
    count = int(header.metadata.get("split.count", 1) or 1)
    if count <= 1:
        return [path]
    number, match = int(header.metadata.get("split.no", 0)) + 1, _PART.search(path.name)
    if match is None or int(match[2]) != count:
        raise EngineError(
            f"{path.name} is part {number} of {count} of a model, but its name does not end in "
            f"-{number:05}-of-{count:05}.gguf; keep the names of the parts"
        )
    parts = [path.with_name(_PART.sub(f"-{place:05}-of-{count:05}", path.name)) for place in range(1, count + 1)]
    if missing := [part.name for part in parts if not part.is_file()]:
        raise EngineError(
            f"the model has {count} parts, and {', '.join(missing[:3])} is missing; add it beside the others"
        )
    return parts


def first_parts(paths: Iterable[Path]) -> list[Path]:
    """Return the files, of each split model only the first part."""
    first: dict[str, Path] = {}
    for path in sorted(paths):
        first.setdefault(_PART.sub("", path.as_posix()), path)
    return [*first.values()]


def _type(entry: TensorEntry) -> Any:
    from gguf import GGMLQuantizationType

    try:
        return GGMLQuantizationType(entry.type)
    except ValueError:
        raise ModelUnfit(f"{entry.name} has the type {entry.type}, which is not known") from None


def _row_bytes(entry: TensorEntry, path: Path) -> int:
    from gguf.constants import GGML_QUANT_SIZES

    block_values, block_bytes = GGML_QUANT_SIZES[_type(entry)]
    if not entry.shape or entry.shape[0] % block_values:
        raise EngineError(
            f"{path.name} has the tensor {entry.name} of the shape {entry.shape}, but its type has blocks of "
            f"{block_values} values; download it again"
        )
    return int(entry.shape[0] // block_values * block_bytes)
