from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from runner.engine import EngineError
from runner.prepare import FORMAT, find_gguf, kv_bytes_per_token, prepare, read_model_facts


def write(path: Path, data: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def write_weights(folder: Path, shapes: dict[str, list[int]]) -> int:
    """A safetensors file with a header and no tensors; its size."""
    header: dict[str, Any] = {name: {"dtype": "F32", "shape": shape} for name, shape in shapes.items()}
    data = json.dumps({"__metadata__": {}, **header}).encode()
    return len(write(folder / "model.safetensors", len(data).to_bytes(8, "little") + data).read_bytes())


def test_the_one_gguf_is_found(tmp_path: Path) -> None:
    """A single file, or a folder's only one however its other files are called."""
    file = write(tmp_path / "model" / "weights.GGUF", b"GGUF....")
    write(tmp_path / "model" / "README.md")
    assert file == find_gguf(tmp_path)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([], "no file"),
        (["pytorch_model.bin"], "pickle"),
        (["model/weights.pt", "model/config.json"], "pickle"),
        (["model.gguf"], "no GGUF file"),
        (["notes.txt"], "no GGUF file"),
        (["a.gguf", "b.gguf"], "2 GGUF files"),
        (["model/model.safetensors"], "needs no preparing"),
    ],
)
def test_what_cannot_be_prepared_is_refused_in_a_sentence(tmp_path: Path, names: list[str], words: str) -> None:
    """A pickle is never opened, and the sentence says what to choose instead."""
    for name in names:
        write(tmp_path / name)
    with pytest.raises(EngineError, match=words):
        find_gguf(tmp_path)


def test_what_is_complete_is_reused_without_its_source(tmp_path: Path) -> None:
    """A second preparation answers with the first one's facts and touches nothing."""
    facts = {"format": FORMAT, "weights_bytes": 7}
    write(tmp_path / "complete.json", json.dumps(facts).encode())
    kept = write(tmp_path / "weights" / "model.safetensors")
    assert facts == prepare(tmp_path / "no-source", tmp_path, engine="transformers", dtype="auto")
    assert kept.exists()


@pytest.mark.parametrize("marker", [None, b"{", b'{"format": 0}'])
def test_an_unfinished_or_older_preparation_does_not_count(tmp_path: Path, marker: bytes | None) -> None:
    """Without a whole marker of this format the work begins anew, so a bad source is noticed."""
    if marker is not None:
        write(tmp_path / "prepared" / "complete.json", marker)
    write(tmp_path / "prepared" / "weights" / "half")
    with pytest.raises(EngineError, match="no file"):
        prepare(tmp_path / "source", tmp_path / "prepared", engine="transformers", dtype="auto")


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
    write(tmp_path / "config.json", b'{"max_position_embeddings": 128, "model_type": "llama"}')
    expected = {
        "weights_bytes": size,
        "kv_bytes_per_token": 0,
        "context_length": 128,
        "parameters": 18,
        "architecture": "llama",
    }
    assert expected == read_model_facts(tmp_path, "float32")
