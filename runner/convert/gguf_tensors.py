"""Reads a GGUF file's tensors one at a time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from runner.convert.gguf_header import GgufHeader
from runner.convert.grouped import GROUP, Grouped, from_q4_0, from_q4_1, from_q8_0, round_to_groups
from runner.convert.weights import Array, halves_from_pairs
from runner.engine import EngineError

# Types that the kernels' format holds without loss; all others are rounded to 8 bits.
_LOSSLESS = {"Q4_0": from_q4_0, "Q4_1": from_q4_1, "Q8_0": from_q8_0}


class GgufTensors:
    """Names are as in GGUF (`blk.0.attn_q.weight`); matrices have a row for each output. The file stays mapped."""

    def __init__(self, path: Path, header: GgufHeader) -> None:
        from gguf import GGUFReader

        self._tensors = {tensor.name: tensor for tensor in GGUFReader(path).tensors}
        heads = int(header.of_model("attention.head_count"))
        kv_heads = int(header.of_model("attention.head_count_kv", heads))
        # In this family, llama.cpp's converter puts the two rows of each pair of queries and keys next to each other.
        is_paired = header.metadata.get("general.architecture") == "llama"
        self._paired_heads = {"attn_q": heads, "attn_k": kv_heads} if is_paired else {}

    def vector(self, name: str) -> Array | None:
        """Return the float32 values of a norm's weight, a bias or the like; None if there is none."""
        tensor = self._tensors.get(name)
        if tensor is None:
            return None
        heads = self._heads(name)
        values = self._values(tensor)
        return halves_from_pairs(values, heads) if heads else values

    def matrix(self, name: str) -> Grouped | None:
        """Return a matrix; None if there is none. Raises EngineError if its rows are not whole groups."""
        tensor = self._tensors.get(name)
        if tensor is None:
            return None
        if (columns := int(tensor.shape[0])) % GROUP:
            raise EngineError(
                f"{name} has rows of {columns} values, not of a multiple of {GROUP}; write `engine: transformers`"
            )
        read = _LOSSLESS.get(tensor.tensor_type.name)
        matrix = round_to_groups(self._values(tensor)) if read is None else read(tensor.data)
        if not (heads := self._heads(name)):
            return matrix
        parts = {part: halves_from_pairs(getattr(matrix, part), heads) for part in ("codes", "scales", "offsets")}
        return replace(matrix, **parts)

    def _heads(self, name: str) -> int | None:
        return self._paired_heads.get(name.split(".")[-2]) if "." in name else None

    @staticmethod
    def _values(tensor: Any) -> Array:
        from gguf.quants import dequantize

        return np.asarray(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
