"""Reads a GGUF file's tensors one at a time."""

from __future__ import annotations

from dataclasses import replace

from runner.convert.gguf_file import GgufFile
from runner.convert.grouped import GROUP, Grouped, from_q4_0, from_q4_1, from_q8_0, round_to_groups
from runner.convert.weights import Array, halves_from_pairs
from runner.engine import ModelUnfit

# Types that the kernels' format holds without loss; all others are rounded to 8 bits.
LOSSLESS = {"Q4_0": from_q4_0, "Q4_1": from_q4_1, "Q8_0": from_q8_0}


class GgufTensors:
    """Names are as in GGUF (`blk.0.attn_q.weight`); matrices have a row for each output."""

    def __init__(self, file: GgufFile) -> None:
        self._file = file
        self._used: set[str] = set()
        header = file.header
        heads = int(header.of_model("attention.head_count"))
        kv_heads = int(header.of_model("attention.head_count_kv", heads))
        # In this family, llama.cpp's converter puts the two rows of each pair of queries and keys next to each other.
        is_paired = header.metadata.get("general.architecture") == "llama"
        self._paired_heads = {"attn_q": heads, "attn_k": kv_heads} if is_paired else {}

    def vector(self, name: str) -> Array | None:
        """Return the float32 values of a norm's weight, a bias or the like; None if there is none."""
        if not self._use(name):
            return None
        heads = self._heads(name)
        values = self._file.values(name)
        return halves_from_pairs(values, heads) if heads else values

    def matrix(self, name: str) -> Grouped | None:
        """Return a matrix; None if there is none. Raises ModelUnfit if its rows are not whole groups."""
        if not self._use(name):
            return None
        if (columns := self._file.columns(name)) % GROUP:
            raise ModelUnfit(f"{name} has rows of {columns} values, not of a multiple of {GROUP}")
        read = LOSSLESS.get(self._file.type_name(name))
        matrix = round_to_groups(self._file.values(name)) if read is None else read(self._file.raw(name))
        if not (heads := self._heads(name)):
            return matrix
        parts = {part: halves_from_pairs(getattr(matrix, part), heads) for part in ("codes", "scales", "offsets")}
        return replace(matrix, **parts)

    def require_all_used(self) -> None:
        """Raise ModelUnfit, which names a tensor, if the file has one that the graph left out."""
        if left := sorted(self._file.names - self._used):
            more = f" and {len(left) - 1} more" if len(left) > 1 else ""
            raise ModelUnfit(
                f"{self._file.name} has the tensor {left[0]}{more}, which this kind of model does not have"
            )

    def _use(self, name: str) -> bool:
        self._used.add(name)
        return name in self._file.names

    def _heads(self, name: str) -> int | None:
        return self._paired_heads.get(name.split(".")[-2]) if "." in name else None
