"""llama.cpp's test vocabularies, with the tokens that the models' own tokenizers make of some texts."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.convert.gguf_header import read_header
from runner.tokenizer import load_tokenizer, write_tokenizer
from tests.runner.tokenizer.packages import llama_cpp_models

pytestmark = pytest.mark.real_model

VOCABULARIES = ("bert-bge", "command-r", "deepseek-coder", "deepseek-llm", "falcon", "gemma-4", "gpt-2", "llama-bpe",
                "llama-spm", "mpt", "phi-3", "qwen2", "refact", "starcoder")  # fmt: skip


@pytest.mark.parametrize("name", VOCABULARIES)
def test_a_vocabulary_of_llama_cpp_gives_its_tokens(name: str, tmp_path: Path) -> None:
    """The texts beside llama.cpp's test vocabularies become the tokens that it expects."""
    file = llama_cpp_models() / f"ggml-vocab-{name}.gguf"
    write_tokenizer(read_header(file).metadata, tmp_path)
    tokenizer = load_tokenizer(tmp_path, has_chat=False)
    inputs = Path(f"{file}.inp").read_text(encoding="utf-8").split("\n__ggml_vocab_test__\n")
    outputs = [tuple(map(int, line.split())) for line in Path(f"{file}.out").read_text().splitlines()]
    assert len(outputs) >= 40
    assert outputs == [tokenizer.encode_text(text, add_special_tokens=False) for text in inputs[: len(outputs)]]
