"""Converts GGUF to OpenVINO IR, tokenizer and configuration."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from runner.convert.gguf_header import GgufHeader, read_header
from runner.convert.gguf_tensors import GgufTensors
from runner.convert.llama_shape import Shape, model_shape
from runner.kernels import OWN_PRODUCTS
from runner.tokenizer import write_tokenizer


def convert_to_openvino(source: Path, target: Path, *, on_progress: Callable[[float], None]) -> dict[str, Any]:
    """Write a folder that the openvino engine reads without the GGUF; return the configuration written there.

    OpenVINO GenAI's own reader is not used: it rounds the offsets of 4-bit weights (`bench.quality` then measures 1.2
    times the file's perplexity with SmolLM2-135M), and guesses how the tokenizer splits text. Raises EngineError for a
    model of another family.
    """
    header = read_header(source)
    shape = model_shape(source.name, header)
    on_progress(0.05)
    write_tokenizer(header.metadata, target)
    on_progress(0.2)
    _write_model(source, header, shape, target)
    on_progress(0.9)
    config = {**model_config(header), OWN_PRODUCTS: True}
    (target / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return config


def _write_model(source: Path, header: GgufHeader, shape: Shape, target: Path) -> None:
    import openvino

    from runner.convert.llama_graph import build

    tensors = GgufTensors(source, header)
    # Llama 3 stores its longer context as a divisor for each frequency.
    if (factors := tensors.vector("rope_freqs.weight")) is not None:
        shape = replace(shape, inverse_frequencies=shape.inverse_frequencies / factors)
    openvino.save_model(build(shape, tensors), target / "openvino_model.xml", compress_to_fp16=False)


def model_config(header: GgufHeader) -> dict[str, Any]:
    """Return the model's shape under the names in a config.json."""
    heads = int(header.of_model("attention.head_count", 0))
    config = {
        "model_type": header.metadata.get("general.architecture"),
        "max_position_embeddings": header.of_model("context_length"),
        "hidden_size": header.of_model("embedding_length"),
        "num_hidden_layers": header.of_model("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": header.of_model("attention.head_count_kv", heads),
        "head_dim": header.of_model("attention.key_length"),
    }
    return {name: value for name, value in config.items() if value is not None}
