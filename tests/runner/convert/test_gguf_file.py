"""GGUF files with weights: whole, split, and damaged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.convert.gguf_file import GgufFile
from runner.engine import EngineError

MATRIX = np.arange(256, dtype=np.float32).reshape(4, 64) / 16
VECTOR = np.arange(3, dtype=np.float32)


def write(path: Path, **options: Any) -> None:
    """Write two matrices, one of them in 8 bits, and a vector."""
    writer = gguf.GGUFWriter(path, "llama", **options)
    writer.add_block_count(1)
    kind = gguf.GGMLQuantizationType.Q8_0
    writer.add_tensor("a.weight", MATRIX)
    writer.add_tensor("b.weight", gguf.quants.quantize(MATRIX, kind), raw_dtype=kind)
    writer.add_tensor("c.weight", VECTOR)
    writer.write_header_to_file(path)
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def check(file: GgufFile) -> None:
    assert {"a.weight", "b.weight", "c.weight"} == file.names
    assert (MATRIX == file.values("a.weight")).all()
    assert (VECTOR == file.values("c.weight")).all()
    assert ("Q8_0", 64, 4) == (file.type_name("b.weight"), file.columns("b.weight"), file.row_count("b.weight"))
    assert abs(MATRIX[2:] - file.values("b.weight", slice(2, None))).max() < 0.1
    assert 2 * MATRIX.size + VECTOR.size == file.parameters


def test_tensors_have_their_values(tmp_path: Path) -> None:
    """Narrow types are widened, rows can be read alone, and a vector has no rows."""
    write(tmp_path / "m.gguf")
    check(GgufFile(tmp_path / "m.gguf"))


def test_a_split_model_is_one_model(tmp_path: Path) -> None:
    """The first part leads to all others."""
    write(tmp_path / "m.gguf", split_max_tensors=1)
    assert 3 == len([*tmp_path.glob("m-*-of-00003.gguf")])
    check(GgufFile(tmp_path / "m-00001-of-00003.gguf"))


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    """The error names the file to add; a part under another name is refused with the name to keep."""
    write(tmp_path / "m.gguf", split_max_tensors=1)
    (tmp_path / "m-00002-of-00003.gguf").unlink()
    with pytest.raises(EngineError, match=r"m-00002-of-00003\.gguf is missing"):
        GgufFile(tmp_path / "m-00001-of-00003.gguf")
    (tmp_path / "m-00001-of-00003.gguf").rename(tmp_path / "model.gguf")
    with pytest.raises(EngineError, match=r"part 1 of 3 .*-00001-of-00003\.gguf"):
        GgufFile(tmp_path / "model.gguf")


def test_a_cut_file_is_refused_by_the_tensors_name(tmp_path: Path) -> None:
    """A download that ended early never becomes a model with zeros at its end."""
    file = tmp_path / "m.gguf"
    write(file)
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(EngineError, match=r"ends within the tensor c\.weight"):
        GgufFile(file)


@settings(max_examples=300)
@given(place=st.integers(0, 600), byte=st.integers(0, 255))
def test_damage_is_an_error_or_other_numbers(tmp_path_factory: pytest.TempPathFactory, place: int, byte: int) -> None:
    """Whatever byte of a file is wrong, reading it ends with numbers, or an error that says what is damaged."""
    file = tmp_path_factory.getbasetemp() / "damaged.gguf"
    write(file)
    content = bytearray(file.read_bytes())
    content[place % len(content)] = byte
    file.write_bytes(content)
    try:
        model = GgufFile(file)
        for name in model.names:
            model.values(name)
    except (EngineError, ValueError):
        pass
