"""How much memory a model's container may use when models.yaml does not say."""

from __future__ import annotations

from controller.registry import ModelSpec
from controller.rendering.target import ModelFiles

MIB = 1024 * 1024
GIB = 1024 * MIB

# What an engine takes before any weight is loaded (interpreter, libraries, work buffers) and how many sequences it
# holds a KV cache for at once. SmolLM2-135M in float32 was seen to peak at 0.95 GB in all, 0.54 GB of it weights.
_OVERHEAD_BYTES = {"transformers": 1 * GIB}
_SEQUENCES = {"transformers": 1}
_BYTES_PER_WEIGHT = {"float32": 4, "auto": 4, "bfloat16": 2, "float16": 2}
_UNKNOWN_BYTES = 4 * GIB
_MAX_DEFAULT_CONTEXT = 8192


def serving_memory_bytes(spec: ModelSpec, files: ModelFiles) -> int:
    """`resources.memory`, or 1.3 times the weights + KV cache + the engine's overhead; 4 GiB before the download."""
    if spec.resources.memory_bytes is not None:
        return spec.resources.memory_bytes
    if files.weights_bytes is None:
        return _UNKNOWN_BYTES
    width = _BYTES_PER_WEIGHT[spec.dtype]
    # Files hold 16-bit weights as a rule; a wider dtype widens them when they are loaded.
    weights = files.parameters * width if files.parameters else files.weights_bytes * width // 2
    context = spec.context_length or min(files.context_length or _MAX_DEFAULT_CONTEXT, _MAX_DEFAULT_CONTEXT)
    kv_cache = files.kv_bytes_per_token * context * _SEQUENCES.get(spec.engine, spec.max_concurrency)
    total = int(1.3 * weights) + kv_cache + _OVERHEAD_BYTES.get(spec.engine, GIB)
    return -(-total // (64 * MIB)) * 64 * MIB


def preparing_memory_bytes(files: ModelFiles) -> int:
    """The limit of a conversion, which holds the weights dequantised (a 4-bit file grows 8 times) and their copy."""
    return _UNKNOWN_BYTES if files.source_bytes is None else 2 * GIB + 16 * files.source_bytes
