"""Tokenizers from GGUF metadata against the models' own, and against llama.cpp's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runner.convert.gguf_header import read_header
from runner.tokenizer import load_tokenizer, write_tokenizer
from tests.runner.tokenizer.real_tokenizers import gguf_metadata, llama_cpp_vocabularies, npm_tokenizer
from tests.runner.tokenizer.texts import texts

pytestmark = pytest.mark.real_model

OWN = {
    "llama3_1": "llama-bpe",
    "qwen3": "qwen2",
    "deepseek_v3": "deepseek-v3",
    "gptoss": "gpt-4o",
    "llama2": None,
    "gemma3": None,
}
VOCABULARIES = ("command-r", "deepseek-coder", "deepseek-llm", "falcon", "gemma-4", "gpt-2", "llama-bpe", "llama-spm",
                "mpt", "phi-3", "qwen2", "refact", "starcoder")  # fmt: skip
COUNT = 2_500


@pytest.mark.parametrize("name", OWN)
def test_a_gguf_has_the_tokens_of_the_model(name: str, tmp_path: Path) -> None:
    """2,500 texts in many languages, with code, spaces and special tokens, become the tokens of the model's own
    tokenizer; streamed back one token at a time they are the whole text again.
    """
    real = npm_tokenizer(name)
    metadata = gguf_metadata(real, pre=OWN[name])
    if name == "gemma3":
        metadata["tokenizer.ggml.add_space_prefix"] = False
    write_tokenizer(metadata, tmp_path)
    tokenizer, own = load_tokenizer(tmp_path, has_chat=False), real.library()
    special = [token["content"] for token in real.content["added_tokens"][:8]]
    differing = []
    for text in texts(COUNT, special):
        expected = own.encode(text, add_special_tokens=False).ids
        tokens = tokenizer.encode_text(text, add_special_tokens=False)
        if tuple(expected) != tokens:
            differing.append((text, expected, tokens))
        detokenizer = tokenizer.detokenizer()
        streamed = "".join(map(detokenizer.feed, tokens)) + detokenizer.flush()
        whole = own.decode(expected, skip_special_tokens=True)
        assert whole.strip() == streamed.strip() or "\ufffd" in whole, text
    assert [] == differing[:3], len(differing)


@pytest.mark.parametrize("name", VOCABULARIES)
def test_a_vocabulary_of_llama_cpp_gives_its_tokens(name: str, tmp_path: Path) -> None:
    """The texts beside llama.cpp's test vocabularies become the tokens that it expects."""
    file = llama_cpp_vocabularies() / f"ggml-vocab-{name}.gguf"
    write_tokenizer(read_header(file).metadata, tmp_path)
    tokenizer = load_tokenizer(tmp_path, has_chat=False)
    inputs = Path(f"{file}.inp").read_text(encoding="utf-8").split("\n__ggml_vocab_test__\n")
    outputs = [tuple(map(int, line.split())) for line in Path(f"{file}.out").read_text().splitlines()]
    assert len(outputs) >= 40
    assert outputs == [tokenizer.encode_text(text, add_special_tokens=False) for text in inputs[: len(outputs)]]


def test_qwen_texts_are_composed_first(tmp_path: Path) -> None:
    """Qwen's own tokenizer composes letters and accents (NFC); the file does not say so, but its kind of split does."""
    real = npm_tokenizer("qwen3")
    assert {"type": "NFC"} == real.content["normalizer"]
    write_tokenizer(gguf_metadata(real, pre="qwen2"), tmp_path)
    normalizer = json.loads((tmp_path / "tokenizer.json").read_text())["normalizer"]
    assert {"type": "NFC"} == normalizer
