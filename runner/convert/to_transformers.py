"""Converts for the engine transformers: GGUF → safetensors."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runner.convert import ModelFacts
from runner.convert.gguf import convert_gguf
from runner.convert.sentence_files import keep_sentence_files

DTYPE_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}


def convert(gguf: Path, weights: Path, *, dtype: str, on_progress: Callable[[float], None]) -> ModelFacts:
    """Write the model as a folder of safetensors and return its facts."""
    convert_gguf(gguf, weights, dtype=dtype, on_progress=on_progress)
    keep_sentence_files(gguf, weights)
    return read_model_facts(weights, dtype)


def read_model_facts(weights: Path, dtype: str) -> ModelFacts:
    """Return the facts of a folder of safetensors, from its configuration and the headers of its files."""
    config: dict[str, Any] = json.loads((weights / "config.json").read_text())
    files = sorted(weights.glob("*.safetensors"))
    return ModelFacts(
        weights_bytes=sum(path.stat().st_size for path in files),
        kv_bytes_per_token=kv_bytes_per_token(config, DTYPE_BYTES[dtype]),
        context_length=int(config.get("max_position_embeddings") or 0),
        parameters=sum(_count_parameters(path) for path in files),
        architecture=str(config.get("model_type") or ""),
    )


def kv_bytes_per_token(config: dict[str, Any], bytes_per_value: int) -> int:
    """Return 2 x layers x key-value heads x head size x bytes: keys and values of one token in all layers."""
    heads = int(config.get("num_attention_heads") or 0)
    kv_heads = int(config.get("num_key_value_heads") or heads)
    head_dim = int(config.get("head_dim") or (int(config.get("hidden_size") or 0) // max(heads, 1)))
    return 2 * int(config.get("num_hidden_layers") or 0) * kv_heads * head_dim * bytes_per_value


def _count_parameters(path: Path) -> int:
    """Return the number of values in the file, from its header alone: its length in eight bytes, then JSON."""
    with path.open("rb") as file:
        header: dict[str, Any] = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return sum(math.prod(map(int, tensor["shape"])) for name, tensor in header.items() if name != "__metadata__")
