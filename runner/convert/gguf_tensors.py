"""A GGUF file's tensors, read one at a time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from runner.convert.gguf_header import GgufHeader
from runner.convert.grouped import GROUP, Grouped, from_q4_0, from_q4_1, from_q8_0, rounded
from runner.convert.weights import Array, halves_from_pairs
from runner.engine import EngineError

# Those that the kernels' form holds without loss; every other is rounded to 8 bits.
_AS_THEY_ARE = {"Q4_0": from_q4_0, "Q4_1": from_q4_1, "Q8_0": from_q8_0}


class GgufTensors:
    """The file stays mapped. Names are as in GGUF (`blk.0.attn_q.weight`); matrices have a row for each output."""

    def __init__(self, path: Path, header: GgufHeader) -> None:
        from gguf import GGUFReader

        self._found = {tensor.name: tensor for tensor in GGUFReader(path).tensors}
        heads = int(header.of_model("attention.head_count"))
        kv_heads = int(header.of_model("attention.head_count_kv", heads))
        # llama.cpp's converter lays the rows of this family's queries and keys as pairs that are neighbours.
        is_paired = header.metadata.get("general.architecture") == "llama"
        self._paired_heads = {"attn_q": heads, "attn_k": kv_heads} if is_paired else {}

    def vector(self, name: str) -> Array | None:
        """The float32 values of a norm's weight, a bias or the like; None where there is none."""
        tensor = self._found.get(name)
        if tensor is None:
            return None
        heads = self._heads(name)
        values = self._values(tensor)
        return halves_from_pairs(values, heads) if heads else values

    def matrix(self, name: str) -> Grouped | None:
        """Raises EngineError for rows that are no whole groups."""
        tensor = self._found.get(name)
        if tensor is None:
            return None
        if (columns := int(tensor.shape[0])) % GROUP:
            raise EngineError(
                f"{name} has rows of {columns}, not of a multiple of {GROUP}; write `engine: transformers`"
            )
        read = _AS_THEY_ARE.get(tensor.tensor_type.name)
        found = rounded(self._values(tensor)) if read is None else read(tensor.data)
        if not (heads := self._heads(name)):
            return found
        parts = {part: halves_from_pairs(getattr(found, part), heads) for part in ("codes", "scales", "offsets")}
        return replace(found, **parts)

    def _heads(self, name: str) -> int | None:
        return self._paired_heads.get(name.split(".")[-2]) if "." in name else None

    @staticmethod
    def _values(tensor: Any) -> Array:
        from gguf.quants import dequantize

        return np.asarray(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
