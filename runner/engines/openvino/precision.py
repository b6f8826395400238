"""What the openvino engine computes in, in the words of OpenVINO's CPU plugin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Arithmetic:
    """`name` is what `/health` shows."""

    name: str
    properties: dict[str, Any]


def arithmetic(dtype: str, *, has_own_products: bool) -> Arithmetic:
    """For a `dtype` of models.yaml, and a graph with our products (`runner/kernels`) or the library's.

    Ours round activations to 16 bits, which float32 arithmetic is not told from by `bench.quality`, and there is no
    faster way: `dtype` changes nothing. With the library's, `auto` rounds activations to 8 bits in groups of 64 values
    where weights are narrow, and is fast; the others do not.
    """
    if has_own_products:
        return Arithmetic("float32", _properties("f32", group=0))
    if dtype == "auto":
        return Arithmetic("int8", _properties("f32", group=64))
    hint = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}[dtype]
    return Arithmetic(dtype, _properties(hint, group=0))


def _properties(hint: str, *, group: int) -> dict[str, Any]:
    # The plugin's own choice of precision is bfloat16, with half the speed where the CPU has no fast way for it; its
    # own choice for the cache, 8 bits, takes half the memory of this one and more than twice the time.
    return {"INFERENCE_PRECISION_HINT": hint, "DYNAMIC_QUANTIZATION_GROUP_SIZE": group, "KV_CACHE_PRECISION": "f16"}
