"""The logits of a model of llama's family, computed plainly from its GGUF file: the yardstick of the self-check.

It shares no code with the conversion. It follows what llama.cpp does with these architectures (`src/models/llama.cpp`,
`qwen2.cpp`, `qwen3.cpp`, version 11434): queries and keys of `llama` rotate in pairs of neighbours, those of the others
in halves of each head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from runner.convert.gguf_file import GgufFile
from runner.convert.weights import Array

# Returns these rows of a matrix in float32.
ReadMatrix = Callable[[str, Any], Array]
# As many rows of the output matrix at a time, so that it need not fit into memory in float32.
_ROWS = 8192


class PlainModel:
    """Reads one matrix at a time. `read_matrix` may round the file's values as a conversion does."""

    def __init__(self, file: GgufFile, read_matrix: ReadMatrix | None = None) -> None:
        self._matrix: ReadMatrix = read_matrix or file.values
        self._file, self._header = file, file.header
        self._heads = int(self._header.of_model("attention.head_count"))
        self._kv_heads = int(self._header.of_model("attention.head_count_kv", self._heads))
        self._epsilon = float(self._header.of_model("attention.layer_norm_rms_epsilon", 1e-5))

    def logits(self, tokens: Sequence[int], places: Array, is_hidden: Array) -> Array:
        """Return float32 [tokens, vocabulary]; `is_hidden` [tokens, tokens] says what each token does not see."""
        x = self._matrix("token_embd.weight", np.asarray(tokens))
        for layer in range(int(self._header.of_model("block_count"))):
            x = x + self._attention(f"blk.{layer}.", self._norm(x, f"blk.{layer}.attn_norm"), places, is_hidden)
            x = x + self._feed_forward(f"blk.{layer}.", self._norm(x, f"blk.{layer}.ffn_norm"))
        x = self._norm(x, "output_norm")
        name = "output.weight" if "output.weight" in self._file.names else "token_embd.weight"
        starts = range(0, self._file.row_count(name), _ROWS)
        parts = [x @ self._matrix(name, slice(start, start + _ROWS)).T for start in starts]
        return np.concatenate(parts, axis=1)

    def _attention(self, prefix: str, x: Array, places: Array, is_hidden: Array) -> Array:
        query, key, value = (
            self._linear(x, f"{prefix}attn_{name}").reshape(len(x), heads, -1)
            for name, heads in (("q", self._heads), ("k", self._kv_heads), ("v", self._kv_heads))
        )
        query, key = self._head_norm(query, f"{prefix}attn_q_norm"), self._head_norm(key, f"{prefix}attn_k_norm")
        query, key = self._rotate(query, places), self._rotate(key, places)
        repeats = self._heads // self._kv_heads
        key, value = np.repeat(key, repeats, axis=1), np.repeat(value, repeats, axis=1)
        scores = np.einsum("thd,shd->hts", query, key) / np.sqrt(query.shape[-1])
        scores[:, is_hidden] = -np.inf
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        return self._linear(np.einsum("hts,shd->thd", weights, value).reshape(len(x), -1), f"{prefix}attn_output")

    def _feed_forward(self, prefix: str, x: Array) -> Array:
        gate, up = self._linear(x, f"{prefix}ffn_gate"), self._linear(x, f"{prefix}ffn_up")
        return self._linear(gate / (1 + np.exp(-gate)) * up, f"{prefix}ffn_down")

    def _rotate(self, x: Array, places: Array) -> Array:
        size = x.shape[-1]
        base = float(self._header.of_model("rope.freq_base", 10000.0))
        frequencies = base ** (-np.arange(0, size, 2, dtype=np.float64) / size)
        if self._header.of_model("rope.scaling.type", "linear") == "linear":
            frequencies /= float(self._header.of_model("rope.scaling.factor", 1.0) or 1.0)
        if (factors := self._vector("rope_freqs.weight")) is not None:
            frequencies /= factors
        angles = (places[:, None] * frequencies).astype(np.float32)[:, None, :]
        cos, sin = np.cos(angles), np.sin(angles)
        is_paired = self._header.metadata["general.architecture"] == "llama"
        first, second = (x[..., ::2], x[..., 1::2]) if is_paired else (x[..., : size // 2], x[..., size // 2 :])
        turned = (first * cos - second * sin, second * cos + first * sin)
        return np.stack(turned, axis=-1).reshape(x.shape) if is_paired else np.concatenate(turned, axis=-1)

    def _norm(self, x: Array, name: str) -> Array:
        scaled: Array = x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + self._epsilon)
        return scaled * self._vector(f"{name}.weight")

    def _head_norm(self, x: Array, name: str) -> Array:
        return self._norm(x, name) if f"{name}.weight" in self._file.names else x

    def _linear(self, x: Array, name: str) -> Array:
        product: Array = x @ self._matrix(f"{name}.weight", slice(None)).T
        bias = self._vector(f"{name}.bias")
        return product if bias is None else product + bias

    def _vector(self, name: str) -> Array | None:
        return self._file.values(name) if name in self._file.names else None
