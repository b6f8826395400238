"""The arithmetic of converting weights, and which GGUF models the openvino engine accepts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.convert.gguf_header import GgufHeader
from runner.convert.llama_shape import model_shape
from runner.convert.weights import halves_from_pairs
from runner.engine import EngineError

SIZES: dict[str, Any] = {
    "block_count": 2,
    "embedding_length": 64,
    "attention.head_count": 4,
    "attention.head_count_kv": 2,
    "rope.freq_base": 10000.0,
}


def header(architecture: str = "llama", **more: Any) -> GgufHeader:
    sizes = {**SIZES, **{name.replace("__", "."): value for name, value in more.items()}}
    metadata = {f"{architecture}.{name}": value for name, value in sizes.items()}
    return GgufHeader({"general.architecture": architecture, **metadata}, parameters=1)


@given(st.integers(1, 4), st.integers(1, 5))
def test_rows_of_pairs_become_halves(heads: int, half: int) -> None:
    """Row 2i of a head becomes its row i, and row 2i + 1 its row half + i; heads keep their order."""
    rows = np.arange(heads * half * 2).reshape(-1, 1)
    halves = halves_from_pairs(rows, heads)
    for head in range(heads):
        start = head * half * 2
        for i in range(half):
            assert halves[start + i] == start + 2 * i
            assert halves[start + half + i] == start + 2 * i + 1


def test_the_frequencies_follow_the_header() -> None:
    """theta_i = base^(-2i/head_dim), divided by a linear stretch."""
    plain = model_shape("m.gguf", header())
    assert plain.head_dim == 16
    assert plain.inverse_frequencies == pytest.approx([10000 ** (-i / 8) for i in range(8)])
    stretched = model_shape("m.gguf", header(rope__scaling__type="linear", rope__scaling__factor=4.0))
    assert stretched.inverse_frequencies == pytest.approx(plain.inverse_frequencies / 4)


@pytest.mark.parametrize(
    ("given_header", "word"),
    [
        (header("gemma"), "gemma"),
        (header(expert_count=8), "mixture of experts"),
        (header(rope__scaling__type="yarn"), "yarn"),
        (header(rope__dimension_count=8), "part of each head"),
        (header(attention__value_length=8), "another size"),
    ],
)
def test_a_model_without_a_graph_is_refused(given_header: GgufHeader, word: str) -> None:
    """A model that `build` would compute wrongly is not converted: the error says why, and which engine accepts it."""
    with pytest.raises(EngineError, match=f"{word}.*engine: transformers"):
        model_shape("m.gguf", given_header)
