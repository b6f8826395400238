"""A GGUF file's tensors, dequantised one at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from runner.convert.gguf_header import GgufHeader
from runner.convert.weights import Array, halves_from_pairs


class GgufTensors:
    """`tensors(name)` is the float32 array of that name, or None. The file stays mapped."""

    def __init__(self, path: Path, header: GgufHeader) -> None:
        from gguf import GGUFReader

        self._found = {tensor.name: tensor for tensor in GGUFReader(path).tensors}
        heads = int(header.of_model("attention.head_count"))
        kv_heads = int(header.of_model("attention.head_count_kv", heads))
        # llama.cpp's converter lays the rows of this family's queries and keys as pairs that are neighbours.
        is_paired = header.metadata.get("general.architecture") == "llama"
        self._paired_heads = {"attn_q": heads, "attn_k": kv_heads} if is_paired else {}

    def __call__(self, name: str) -> Array | None:
        from gguf.quants import dequantize

        tensor = self._found.get(name)
        if tensor is None:
            return None
        found = np.asarray(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
        heads = self._paired_heads.get(name.split(".")[-2]) if "." in name else None
        return halves_from_pairs(found, heads) if heads else found
