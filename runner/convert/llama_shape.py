"""The sizes of a model of llama's family, from the header of its GGUF file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from runner.convert.gguf_header import GgufHeader
from runner.convert.grouped import Grouped
from runner.convert.weights import Array
from runner.engine import ModelUnfit


class Weights(Protocol):
    """A model's tensors, under names as in GGUF (`blk.0.attn_q.weight`); None if there is none."""

    def vector(self, name: str) -> Array | None:
        """Return the values of a norm or a bias, in float32."""

    def matrix(self, name: str) -> Grouped | None:
        """Return a matrix with a row for each output."""


# Architectures for `llama_graph.build`; they differ only in biases, norms of heads and the order of rows.
ARCHITECTURES = ("llama", "qwen2", "qwen3")


# Keys of an architecture that `build` computes or checks, or that describe the file without changing its arithmetic.
KNOWN_KEYS = frozenset(
    {
        "block_count",
        "context_length",
        "embedding_length",
        "feed_forward_length",
        "vocab_size",
        "attention.head_count",
        "attention.head_count_kv",
        "attention.key_length",
        "attention.layer_norm_rms_epsilon",
        "rope.freq_base",
        "rope.scaling.type",
        "rope.scaling.original_context_length",
        "rope.scaling.finetuned",
    }
)
# Keys that change nothing with these values, or with 0.
NEUTRAL_VALUES: Mapping[str, Any] = {
    "attention.causal": True,
    "logit_scale": 1.0,
    "rope.scaling.attn_factor": 1.0,
    "rope.scale_linear": 1.0,
}


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
    """Return the sizes in a header. Raises ModelUnfit if `build` has no graph for the model."""
    architecture = header.metadata.get("general.architecture")
    for key in ("attention.head_count", "attention.head_count_kv", "feed_forward_length"):
        if isinstance(header.of_model(key), list):
            raise ModelUnfit(f"{name} has layers of different shapes ({architecture}.{key})")
    heads = int(header.of_model("attention.head_count", 0))
    width = int(header.of_model("embedding_length", 0))
    head_dim = int(header.of_model("attention.key_length") or width // max(heads, 1))
    scaling = header.of_model("rope.scaling.type", "linear")
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
        raise ModelUnfit(f"{name} is {reasons[0]}")
    require_known_keys(header, head_dim)
    base = float(header.of_model("rope.freq_base", 10000.0))
    # llama.cpp takes a factor without a kind for a linear one.
    stretch = float(header.of_model("rope.scaling.factor", 1.0) or 1.0) if scaling == "linear" else 1.0
    exponents = np.arange(0, head_dim, 2, dtype=np.float64) / head_dim
    return Shape(
        layers=int(header.of_model("block_count", 0)),
        heads=heads,
        kv_heads=int(header.of_model("attention.head_count_kv", heads)),
        head_dim=head_dim,
        norm_epsilon=float(header.of_model("attention.layer_norm_rms_epsilon", 1e-5)),
        inverse_frequencies=(1.0 / (base**exponents * stretch)).astype(np.float32),
    )


def require_known_keys(header: GgufHeader, head_dim: int) -> None:
    """Raise ModelUnfit for a key of the architecture that may change the arithmetic and is not computed here."""
    architecture = header.metadata["general.architecture"]
    context_length = int(header.of_model("context_length", 0))
    neutral_values = {
        **NEUTRAL_VALUES,
        "rope.dimension_count": head_dim,
        "rope.scaling.factor": (
            header.of_model("rope.scaling.factor")
            if header.of_model("rope.scaling.type", "linear") == "linear"
            else 1.0
        ),
        "attention.value_length": head_dim,
        # A window as long as the context hides nothing.
        "attention.sliding_window": max(int(header.of_model("attention.sliding_window") or 0), context_length),
    }
    for key, value in header.metadata.items():
        name = key.removeprefix(f"{architecture}.")
        if name == key or name in KNOWN_KEYS or value in (0, False, neutral_values.get(name)):
            continue
        raise ModelUnfit(f"the file sets {key} to {value!r}, which is not computed here")
