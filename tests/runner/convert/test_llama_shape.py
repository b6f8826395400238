"""Which GGUF models the openvino engine accepts, and their sizes."""

from __future__ import annotations

from typing import Any

import pytest

from runner.convert.gguf_header import GgufHeader
from runner.convert.llama_shape import model_shape
from runner.engine import ModelUnfit

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
        (header(attention__head_count_kv=[2, 4]), "different shapes"),
        (header(attn_logit_softcapping=30.0), "llama.attn_logit_softcapping to 30.0"),
        (header(attention__sliding_window=8, context_length=64), "llama.attention.sliding_window"),
        (header(rope__scaling__type="none", rope__scaling__factor=4.0), "llama.rope.scaling.factor"),
        (header(unheard_of=1), "llama.unheard_of"),
    ],
)
def test_a_model_without_a_graph_is_refused(given_header: GgufHeader, word: str) -> None:
    """A model that `build` would compute wrongly is not converted, and the error says why."""
    with pytest.raises(ModelUnfit, match=word):
        model_shape("m.gguf", given_header)


def test_keys_that_change_nothing_are_accepted() -> None:
    """Values that mean the same as no key, such as a window as long as the context, are no reason to refuse."""
    model_shape("m.gguf", header(expert_count=0, logit_scale=1.0, attention__sliding_window=64, context_length=64))
