"""Preparing a model: it is converted only once, and some sources are refused."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from runner.engine import EngineError
from runner.prepare import FORMAT, find_gguf, prepare
from tests.runner.convert.test_gguf_header import gguf, text


def write(path: Path, data: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def test_the_only_gguf_is_used(tmp_path: Path) -> None:
    """It may be a single file or the only one in a folder, whatever the other files are called."""
    file = write(tmp_path / "model" / "weights.GGUF", b"GGUF....")
    write(tmp_path / "model" / "README.md")
    assert file == find_gguf(tmp_path)


def test_a_split_model_is_found_by_its_first_part(tmp_path: Path) -> None:
    """All its parts are one model, and files beside a model are none."""
    first = write(tmp_path / "m-00001-of-00002.gguf", b"GGUF....")
    write(tmp_path / "m-00002-of-00002.gguf", b"GGUF....")
    for name in ("mmproj-m-f16.gguf", "sight/m-mmproj.gguf", "m.imatrix.gguf", "imatrix.gguf"):
        write(tmp_path / name, b"GGUF....")
    assert first == find_gguf(tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [("general.type", "adapter", "an addition to a model"), ("general.architecture", "clip", "sees or hears")],
)
def test_a_gguf_without_a_model_is_refused(tmp_path: Path, key: str, value: str, words: str) -> None:
    """An adapter, or the part of a model that sees, is named as what it is."""
    file = write(tmp_path / "source" / "m.gguf", gguf([text(key) + struct.pack("<I", 8) + text(value)], []))
    with pytest.raises(EngineError, match=f"{file.name} is .*{words}"):
        prepare(file.parent, tmp_path / "prepared", engine="openvino", dtype="auto")


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
def test_a_source_that_cannot_be_prepared_is_refused(tmp_path: Path, names: list[str], words: str) -> None:
    """A pickle is never opened, and the error says in a sentence what to choose instead."""
    for name in names:
        write(tmp_path / name)
    with pytest.raises(EngineError, match=words):
        find_gguf(tmp_path)


def test_a_complete_preparation_is_reused_without_its_source(tmp_path: Path) -> None:
    """A second preparation returns the facts of the first and changes nothing."""
    facts = {"format": FORMAT, "weights_bytes": 7}
    write(tmp_path / "complete.json", json.dumps(facts).encode())
    weights = write(tmp_path / "weights" / "model.safetensors")
    assert facts == prepare(tmp_path / "no-source", tmp_path, engine="transformers", dtype="auto")
    assert weights.exists()


@pytest.mark.parametrize("marker", [None, b"{", b'{"format": 0}'])
def test_an_incomplete_or_older_preparation_does_not_count(tmp_path: Path, marker: bytes | None) -> None:
    """Without a complete marker of this format, the work starts again, so a bad source causes an error."""
    if marker is not None:
        write(tmp_path / "prepared" / "complete.json", marker)
    write(tmp_path / "prepared" / "weights" / "half")
    with pytest.raises(EngineError, match="no file"):
        prepare(tmp_path / "source", tmp_path / "prepared", engine="transformers", dtype="auto")


@pytest.mark.parametrize("engine", ["llamacpp", "", "a.b", "../openvino"])
def test_an_engine_without_a_converter_is_refused_with_those_that_have_one(tmp_path: Path, engine: str) -> None:
    """The sentence names the engines for which something is prepared, and nothing is touched."""
    write(tmp_path / "source" / "model.gguf", b"GGUF....")
    leftover = write(tmp_path / "prepared" / "weights" / "half")
    with pytest.raises(EngineError, match=r"only for: openvino, transformers$"):
        prepare(tmp_path / "source", tmp_path / "prepared", engine=engine, dtype="auto")
    assert leftover.exists()
