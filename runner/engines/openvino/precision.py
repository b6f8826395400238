"""The number formats that the openvino engine computes in, as properties of OpenVINO's CPU plugin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Arithmetic:
    """`name` is the `dtype` that `/health` shows."""

    name: str
    properties: dict[str, Any]


def arithmetic(dtype: str, *, has_own_products: bool) -> Arithmetic:
    """Choose for a `dtype` of models.yaml, and a graph with our matrix products (`runner/kernels`) or the library's.

    Ours round activations to 16 bits, which `bench.quality` cannot tell from float32 arithmetic, and there is no faster
    way: `dtype` changes nothing. With the library's, `auto` rounds activations to 8 bits in groups of 64 values if the
    weights are narrow, and is fast; the others do not round.
    """
    if has_own_products:
        return Arithmetic("float32", _properties("f32", group=0))
    if dtype == "auto":
        return Arithmetic("int8", _properties("f32", group=64))
    hint = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}[dtype]
    return Arithmetic(dtype, _properties(hint, group=0))


def _properties(hint: str, *, group: int) -> dict[str, Any]:
    # The plugin would choose bfloat16, at half the speed on CPUs without fast instructions for it, and a cache of 8
    # bits, which takes half the memory of this one and more than twice the time.
    return {"INFERENCE_PRECISION_HINT": hint, "DYNAMIC_QUANTIZATION_GROUP_SIZE": group, "KV_CACHE_PRECISION": "f16"}
