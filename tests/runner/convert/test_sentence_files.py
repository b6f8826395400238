"""The files that a conversion keeps beside the weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runner.convert.sentence_files import keep_sentence_files
from runner.engines.transformers.sentence_recipe import Recipe, read_recipe
from tests.runner.convert.test_gguf_header import NAME, gguf, number


def write_gguf(path: Path, pooling: int | None) -> Path:
    """Write a GGUF file that has only metadata."""
    pairs = [NAME] if pooling is None else [NAME, number("llama.pooling_type", pooling)]
    path.parent.mkdir(parents=True)
    path.write_bytes(gguf(pairs, []))
    return path


@pytest.mark.parametrize(("number", "mode"), [(1, "mean"), (2, "cls"), (3, "lasttoken")])
def test_the_headers_pooling_is_kept(tmp_path: Path, number: int, mode: str) -> None:
    """A file that names its pooling is served with it, with vectors of length 1."""
    keep_sentence_files(write_gguf(tmp_path / "source" / "model.gguf", number), tmp_path)
    assert Recipe(modes=(mode,), normalize=True) == read_recipe(tmp_path)


@pytest.mark.parametrize("number", [None, 0, 4])
def test_a_header_without_pooling_writes_nothing(tmp_path: Path, number: int | None) -> None:
    """A model for text stays a model for text."""
    target = tmp_path / "target"
    target.mkdir()
    keep_sentence_files(write_gguf(tmp_path / "source" / "model.gguf", number), target)
    assert [] == list(target.iterdir())


def test_the_repositorys_own_files_are_kept(tmp_path: Path) -> None:
    """Files beside the GGUF file say more than its header does, and nothing else is copied."""
    gguf = write_gguf(tmp_path / "source" / "model.gguf", 1)
    kinds = {"Transformer": "", "Pooling": "1_Pooling", "Dense": "2_Dense"}
    modules = [{"type": f"sentence_transformers.models.{kind}", "path": path} for kind, path in kinds.items()]
    files = {
        "modules.json": modules,
        "sentence_bert_config.json": {"max_seq_length": 99},
        "config_sentence_transformers.json": {},
        "1_Pooling/config.json": {"pooling_mode": "cls"},
        "2_Dense/config.json": {},
        "2_Dense/model.safetensors": {},
    }
    for name, value in {**files, "notes.json": {}, "2_Dense/pytorch_model.bin": {}}.items():
        path = gguf.parent / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(value))
    target = tmp_path / "target"
    target.mkdir()
    keep_sentence_files(gguf, target)
    assert set(files) == {path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()}
    assert ("cls", 99) == (read_recipe(target).modes[0], read_recipe(target).max_tokens)
