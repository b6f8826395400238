"""The sizes of a model of llama's family, from the header of its GGUF file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from runner.convert.gguf_header import GgufHeader
from runner.convert.grouped import Grouped
from runner.convert.weights import Array
from runner.engine import EngineError


class Weights(Protocol):
    """A model's tensors, under names as in GGUF (`blk.0.attn_q.weight`); None if there is none."""

    def vector(self, name: str) -> Array | None:
        """Return the values of a norm or a bias, in float32."""

    def matrix(self, name: str) -> Grouped | None:
        """Return a matrix with a row for each output."""


# Architectures for `llama_graph.build`; they differ only in biases, norms of heads and the order of rows.
ARCHITECTURES = ("llama", "qwen2", "qwen3")


@dataclass(frozen=True)
class Shape:
    """The sizes of a model. The rotary embedding has head_dim / 2 `inverse_frequencies`."""

    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    norm_epsilon: float
    inverse_frequencies: Array


def model_shape(name: str, header: GgufHeader) -> Shape:
    """Return the sizes in a header. Raises EngineError if `build` has no graph for the model."""
    architecture = header.metadata.get("general.architecture")
    heads = int(header.of_model("attention.head_count", 0))
    width = int(header.of_model("embedding_length", 0))
    head_dim = int(header.of_model("attention.key_length") or width // max(heads, 1))
    scaling = header.of_model("rope.scaling.type", "none")
    unfit = [
        (
            architecture not in ARCHITECTURES,
            f"a {architecture}, not one of {', '.join(ARCHITECTURES)}",
        ),
        (bool(header.of_model("expert_count", 0)), "a mixture of experts"),
        (scaling not in ("none", "linear"), f"made for a context stretched by {scaling}"),
        (header.of_model("rope.dimension_count", head_dim) != head_dim, "one that rotates only a part of each head"),
        (
            header.of_model("attention.value_length", head_dim) != head_dim,
            "one with values of another size than its keys",
        ),
    ]
    if reasons := [reason for is_so, reason in unfit if is_so]:
        raise EngineError(
            f"{name} is {reasons[0]}, which the openvino engine cannot load; write `engine: transformers`"
        )
    base = float(header.of_model("rope.freq_base", 10000.0))
    stretch = float(header.of_model("rope.scaling.factor", 1.0)) if scaling == "linear" else 1.0
    exponents = np.arange(0, head_dim, 2, dtype=np.float64) / head_dim
    return Shape(
        layers=int(header.of_model("block_count", 0)),
        heads=heads,
        kv_heads=int(header.of_model("attention.head_count_kv", heads)),
        head_dim=head_dim,
        norm_epsilon=float(header.of_model("attention.layer_norm_rms_epsilon", 1e-5)),
        inverse_frequencies=(1.0 / (base**exponents * stretch)).astype(np.float32),
    )
