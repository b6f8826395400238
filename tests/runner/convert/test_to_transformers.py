"""The facts about a folder of safetensors, from its configuration and headers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from runner.convert.to_transformers import kv_bytes_per_token, read_model_facts


def write_weights(folder: Path, shapes: dict[str, list[int]]) -> int:
    """Write a safetensors file with a header but no tensors; return its size."""
    header: dict[str, Any] = {name: {"dtype": "F32", "shape": shape} for name, shape in shapes.items()}
    data = json.dumps({"__metadata__": {}, **header}).encode()
    return (folder / "model.safetensors").write_bytes(len(data).to_bytes(8, "little") + data)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        # SmolLM2-135M: 2 x 30 layers x 3 heads x 64 values x 4 bytes.
        ({"num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "hidden_size": 576}, 46080),
        ({"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 64}, 2 * 2 * 64 * 4),
        ({"num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 32, "hidden_size": 64}, 2 * 2 * 128 * 4),
        ({}, 0),
    ],
)
def test_the_kv_cache_of_a_token_follows_from_the_configuration(config: dict[str, Any], expected: int) -> None:
    """Grouped heads and an explicit head size count; an unknown architecture gives 0, not an error."""
    assert expected == kv_bytes_per_token(config, 4)


def test_facts_come_from_headers_alone(tmp_path: Path) -> None:
    """Sizes and parameters are known without reading a tensor."""
    size = write_weights(tmp_path, {"a": [3, 4], "b": [5], "scalar": []})
    (tmp_path / "config.json").write_text('{"max_position_embeddings": 128, "model_type": "llama"}')
    expected = {
        "weights_bytes": size,
        "kv_bytes_per_token": 0,
        "context_length": 128,
        "parameters": 18,
        "architecture": "llama",
    }
    assert expected == read_model_facts(tmp_path, "float32")
