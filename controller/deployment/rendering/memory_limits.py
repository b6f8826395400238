"""How much memory a model's container may use when models.yaml does not say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from controller.deployment.engines import Engine
from controller.deployment.rendering.target import ModelFiles, Target
from controller.registry import ModelSpec
from controller.sources import WeightsRoom
from controller.system.sizes import GIB, MIB, write_bytes

# Only a conversion counts these bytes. This is about what a model of a few billion parameters needs in 16 bits.
_UNKNOWN_KV_BYTES = 32 * 1024
_BYTES_PER_WEIGHT = {"float32": 4, "auto": 4, "bfloat16": 2, "float16": 2}
# What an engine needs for each byte of weights: itself, and what it computes with.
_WEIGHTS_FACTOR = 1.3
_UNKNOWN_BYTES = 4 * GIB
_MAX_DEFAULT_CONTEXT = 8192
# What a request may hold on a third-party server when models.yaml does not say. It is reserved for each of
# `max_concurrency` in advance, so it is less than what our runner allows. 4096 tokens fit most conversations.
THIRD_PARTY_CONTEXT = 4096
_THIRD_PARTY_KV_BYTES = 32 * 1024


def memory_limit_bytes(target: Target, engine: Engine) -> int:
    """Return the limit of the model's container: `resources.memory`, or an estimate; 4 GiB before the download."""
    spec, files = target.spec, target.files
    if spec.resources.memory_bytes is not None:
        return spec.resources.memory_bytes
    if files.weights_bytes is None:
        return _UNKNOWN_BYTES
    estimate = _own_runner_bytes if engine.own else _third_party_bytes
    return -(-estimate(spec, files, files.weights_bytes, engine) // (64 * MIB)) * 64 * MIB


def _own_runner_bytes(spec: ModelSpec, files: ModelFiles, in_files_bytes: int, engine: Engine) -> int:
    """Estimate 1.3 times the weights + KV cache + the engine's overhead."""
    weights = int(_WEIGHTS_FACTOR * _weights_bytes(spec, files, in_files_bytes, engine))
    if spec.task == "embedding":
        return weights + GIB  # An embedder keeps nothing between passes, but computes many long texts in one.
    return weights + _kv_cache_bytes(spec, files, engine) + engine.overhead_mib * MIB


def _third_party_bytes(spec: ModelSpec, _files: ModelFiles, in_files_bytes: int, engine: Engine) -> int:
    """Estimate the same for a third-party server, which keeps the weights as they are and reserves each context."""
    kv_cache = _THIRD_PARTY_KV_BYTES * (spec.context_length or THIRD_PARTY_CONTEXT) * spec.max_concurrency
    return int(_WEIGHTS_FACTOR * in_files_bytes) + kv_cache + engine.overhead_mib * MIB


def _kv_cache_bytes(spec: ModelSpec, files: ModelFiles, engine: Engine) -> int:
    context = spec.context_length or min(files.context_length or _MAX_DEFAULT_CONTEXT, _MAX_DEFAULT_CONTEXT)
    width = _BYTES_PER_WEIGHT[engine.kv_dtype or spec.dtype]
    per_token = files.kv_bytes_per_token or _UNKNOWN_KV_BYTES * width // 2
    # The engine shares the cache among many short sequences, and bounds it by the limit itself.
    return per_token * context * (engine.kv_sequences or spec.max_concurrency)


def _weights_bytes(spec: ModelSpec, files: ModelFiles, in_files_bytes: int, engine: Engine) -> int:
    if engine.keeps_weights:
        return in_files_bytes
    width = _BYTES_PER_WEIGHT[spec.dtype]
    # Files hold 16-bit weights as a rule; a wider dtype widens them when they are loaded.
    return files.parameters * width if files.parameters else in_files_bytes * width // 2


def preparing_memory_bytes(files: ModelFiles) -> int:
    """Return the limit of a conversion: the dequantised weights (a 4-bit file grows 8 times) and their copy."""
    return _UNKNOWN_BYTES if files.source_bytes is None else 2 * GIB + 16 * files.source_bytes


def room_for_gguf(spec: ModelSpec, engine: Engine, budget_bytes: Callable[[], int]) -> WeightsRoom | None:
    """Return how large a GGUF file may be for this model's own limit, else for the memory budget of all models.

    None if the file's size does not decide: the engine widens the weights, or a GPU holds them.
    """
    if spec.resources.gpus or (engine.own and not engine.keeps_weights):
        return None
    if (limit_bytes := spec.resources.memory_bytes) is not None:
        # The user knows what else the model needs: only weights that surely do not fit are left out.
        return WeightsRoom(int(limit_bytes / _WEIGHTS_FACTOR), f"`resources.memory` of {write_bytes(limit_bytes)}")
    budget = budget_bytes()
    empty = Target(spec=spec, port=0, files=ModelFiles(source=Path(), source_is_folder=True, weights_bytes=0))
    left_bytes = budget - memory_limit_bytes(empty, engine)
    return WeightsRoom(max(int(left_bytes / _WEIGHTS_FACTOR), 0), f"the memory budget of {write_bytes(budget)}")
