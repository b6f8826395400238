"""How much memory a model's container may use when models.yaml does not say."""

from __future__ import annotations

from controller.deployment.engines import Engine
from controller.deployment.rendering.target import ModelFiles, Target
from controller.registry import ModelSpec
from controller.system.sizes import GIB, MIB

# What an engine takes before any weight is loaded (interpreter, libraries, work buffers) and for how many sequences of
# full length it holds a KV cache. Both share that out among many short sequences and bound it by the limit themselves.
_OVERHEAD_BYTES = {"transformers": 640 * MIB, "openvino": 448 * MIB}
_SEQUENCES = {"transformers": 2, "openvino": 2}
# Where nothing was converted nobody has counted; models of a few billion parameters need about that in 16 bits.
_UNKNOWN_KV_BYTES = 32 * 1024
_BYTES_PER_WEIGHT = {"float32": 4, "auto": 4, "bfloat16": 2, "float16": 2}
_UNKNOWN_BYTES = 4 * GIB
_MAX_DEFAULT_CONTEXT = 8192
# What a request may hold on a server of somebody else's where models.yaml does not say: it is reserved for each of
# `max_concurrency` in advance, so it is less than what our runner allows. 4096 tokens fit most conversations.
FOREIGN_CONTEXT = 4096
_FOREIGN_KV_BYTES = 32 * 1024


def memory_limit_bytes(target: Target, engine: Engine) -> int:
    """The limit of the model's container."""
    if engine.own:
        return serving_memory_bytes(target.spec, target.files)
    return foreign_memory_bytes(target.spec, target.files, engine)


def serving_memory_bytes(spec: ModelSpec, files: ModelFiles) -> int:
    """`resources.memory`, or 1.3 times the weights + KV cache + the engine's overhead; 4 GiB before the download."""
    if spec.resources.memory_bytes is not None:
        return spec.resources.memory_bytes
    if files.weights_bytes is None:
        return _UNKNOWN_BYTES
    # An embedder keeps nothing between passes, but computes many long texts in one.
    is_embedder = spec.task == "embedding"
    kv_cache = 0 if is_embedder else _kv_cache_bytes(spec, files)
    overhead = GIB if is_embedder else _OVERHEAD_BYTES.get(spec.engine, GIB)
    total = int(1.3 * _weights_bytes(spec, files, files.weights_bytes)) + kv_cache + overhead
    return -(-total // (64 * MIB)) * 64 * MIB


def foreign_memory_bytes(spec: ModelSpec, files: ModelFiles, engine: Engine) -> int:
    """The same for a server of somebody else's, which loads the weights as they are and of which its template knows."""
    if spec.resources.memory_bytes is not None:
        return spec.resources.memory_bytes
    if files.weights_bytes is None:
        return _UNKNOWN_BYTES
    kv_cache = _FOREIGN_KV_BYTES * (spec.context_length or FOREIGN_CONTEXT) * spec.max_concurrency
    total = int(1.3 * files.weights_bytes) + kv_cache + engine.overhead_mib * MIB
    return -(-total // (64 * MIB)) * 64 * MIB


def _kv_cache_bytes(spec: ModelSpec, files: ModelFiles) -> int:
    context = spec.context_length or min(files.context_length or _MAX_DEFAULT_CONTEXT, _MAX_DEFAULT_CONTEXT)
    return _kv_bytes_per_token(spec, files) * context * _SEQUENCES.get(spec.engine, spec.max_concurrency)


def _kv_bytes_per_token(spec: ModelSpec, files: ModelFiles) -> int:
    # Openvino's has 16 bits, whatever the dtype.
    width = 2 if spec.engine == "openvino" else _BYTES_PER_WEIGHT[spec.dtype]
    return files.kv_bytes_per_token or _UNKNOWN_KV_BYTES * width // 2


def _weights_bytes(spec: ModelSpec, files: ModelFiles, in_files_bytes: int) -> int:
    if spec.engine == "openvino":
        return in_files_bytes  # Kept as narrow as they are, whatever the dtype they are computed in.
    width = _BYTES_PER_WEIGHT[spec.dtype]
    # Files hold 16-bit weights as a rule; a wider dtype widens them when they are loaded.
    return files.parameters * width if files.parameters else in_files_bytes * width // 2


def preparing_memory_bytes(files: ModelFiles) -> int:
    """The limit of a conversion, which holds the weights dequantised (a 4-bit file grows 8 times) and their copy."""
    return _UNKNOWN_BYTES if files.source_bytes is None else 2 * GIB + 16 * files.source_bytes
