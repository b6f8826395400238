"""Converts for the engine openvino: GGUF → OpenVINO IR."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from runner.convert import ModelFacts
from runner.convert.gguf_header import read_header
from runner.convert.openvino import convert_to_openvino
from runner.engines.openvino.kv_memory import kv_bytes_per_token


def convert(gguf: Path, weights: Path, *, dtype: str, on_progress: Callable[[float], None]) -> ModelFacts:
    """Write the model's IR and return its facts. The `dtype` changes nothing: weights stay as narrow as they are."""
    config = convert_to_openvino(gguf, weights, on_progress=on_progress)
    return ModelFacts(
        weights_bytes=sum(path.stat().st_size for path in weights.glob("openvino_model*")),
        kv_bytes_per_token=kv_bytes_per_token(config),
        context_length=int(config.get("max_position_embeddings") or 0),
        parameters=read_header(gguf).parameters,
        architecture=str(config.get("model_type") or ""),
    )
