"""Each way to split text (`tokenizer.ggml.pre`) gives the tokens of llama.cpp's own library."""

from __future__ import annotations

import json
import re
import subprocess
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from controller.settings import ROOT
from runner.convert.gguf_header import read_header
from runner.tokenizer import load_tokenizer, write_tokenizer
from runner.tokenizer.gguf.splits import SPLITS
from tests.docker.inside import run_in_image
from tests.runner.tokenizer.packages import llama_cpp_models
from tests.runner.tokenizer.texts import texts

pytestmark = [pytest.mark.real_model, pytest.mark.timeout(900)]

IMAGE = "orchestrar-llamacpp:11434.0.0"
COUNT = 2_500
START, END = "<|im_start|>", "<|im_end|>"
# Where llama.cpp splits otherwise than the model's own tokenizer, but no token of its vocabulary crosses the cut:
# Falcon's cuts numbers from the space before them, DeepSeek's cuts them into digits.
OWN_VOCABULARIES = {"falcon": "falcon", "deepseek-llm": "deepseek-llm"}
KEYS = ("model", "tokens", "token_type", "merges", "bos_token_id", "eos_token_id")


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _with_ascii_spaces(text: str) -> str:
    """Leave no space beyond ASCII: llama.cpp reads it as a vertical tab, which is in no range of letters."""
    return re.sub(r"[^\S\x00-\x7f]", " ", text)


def _of_one_case(text: str) -> str:
    """Leave no marks, and beside letters beyond ASCII no capitals: llama.cpp's pattern takes all these for any case."""
    has_others = any(letter.isalpha() and not letter.isascii() for letter in text)
    letters = _composed(text.lower() if has_others else text)
    return "".join(letter for letter in letters if letter.isascii() or unicodedata.category(letter) not in _NOT_CASED)


def _without_case(text: str) -> str:
    """Leave no capitals, and around numbers what llama.cpp's own code for them cuts as the pattern says.

    It does not look at the end of a word, and leaves two spaces and the number after them in one piece.
    """
    numbers_apart = re.sub(r"(?<=\d)(?=[^\W\d])|(?<=[^\W\d])(?=\d)", " ", _of_one_case(text.lower()))
    return re.sub(r"\s+(?=\d)", " ", numbers_apart)


_NOT_CASED = ("Lu", "Lt", "Mn", "Mc", "Me")
# What llama.cpp does otherwise than the models' own tokenizers, with which test_real_tokenizers compares all texts: it
# composes no letters (NFC), and its patterns know capitals only in ASCII, or not at all.
CHANGES: dict[str, Callable[[str], str]] = {
    **{pre: _composed for pre, split in SPLITS.items() if split.is_composed},
    **dict.fromkeys(("gpt-4o", "llama4", "kanana2", "minimax-m2", "tekken"), _of_one_case),
    **dict.fromkeys(("tiny_aya", "cohere2moe"), _without_case),
    **dict.fromkeys(("deepseek-llm", "deepseek-coder"), _with_ascii_spaces),
}


@pytest.fixture(scope="module")
def cases() -> dict[str, tuple[dict[str, Any], list[str]]]:
    """Return for each `pre` a vocabulary and texts."""
    all_texts, trained = texts(COUNT, (START, END)), trained_vocabulary()
    return {
        pre: (
            own_vocabulary(OWN_VOCABULARIES[pre]) if pre in OWN_VOCABULARIES else trained,
            [CHANGES.get(pre, str)(text) for text in all_texts],
        )
        for pre in SPLITS
    }


@pytest.fixture(scope="module")
def llama_tokens(cases: dict[str, tuple[dict[str, Any], list[str]]]) -> dict[str, list[list[int]]]:
    """Return for each `pre` llama.cpp's tokens of the texts."""
    if subprocess.run(["docker", "image", "inspect", IMAGE], capture_output=True, check=False).returncode:
        build = ["python3", "-m", "scripts.setup", "engine-image", "llamacpp"]
        subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=800)
    script = ROOT / "tests" / "docker" / "llamacpp_tokens.py"
    document = [({**metadata, "tokenizer.ggml.pre": pre}, words) for pre, (metadata, words) in cases.items()]
    options = ("--user=0", f"--volume={script}:/llamacpp_tokens.py:ro", "--entrypoint=python3")
    rows = run_in_image(IMAGE, "/llamacpp_tokens.py", options=options, document=document, deadline_s=800)
    return dict(zip(cases, rows, strict=True))


@pytest.mark.parametrize("pre", SPLITS)
def test_a_split_gives_the_tokens_of_llama_cpp(
    pre: str,
    cases: dict[str, tuple[dict[str, Any], list[str]]],
    llama_tokens: dict[str, list[list[int]]],
    tmp_path: Path,
) -> None:
    """2,500 texts become the same tokens. The vocabulary was trained on them uncut: each cut shows in the tokens."""
    metadata, words = cases[pre]
    write_tokenizer({**metadata, "tokenizer.ggml.pre": pre}, tmp_path)
    tokenizer = load_tokenizer(tmp_path, has_chat=False)
    pairs = [
        (text, [*tokenizer.encode_text(text, add_special_tokens=False)], theirs)
        for text, theirs in zip(words, llama_tokens[pre], strict=True)
    ]
    assert COUNT == len(pairs)
    differing = [pair for pair in pairs if pair[1] != pair[2]]
    assert [] == differing[:3], len(differing)


def trained_vocabulary() -> dict[str, Any]:
    """Return a byte-level vocabulary whose tokens cross every cut of a text, trained on the texts themselves."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=8_000, show_progress=False, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(texts(COUNT), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    values = (
        "gpt2",
        [*tokens, START, END],
        [1] * len(tokens) + [3, 3],
        [" ".join(pair) for pair in model["merges"]],
        len(tokens),
        len(tokens) + 1,
    )
    return {"general.architecture": "llama"} | dict(zip((f"tokenizer.ggml.{key}" for key in KEYS), values, strict=True))


def own_vocabulary(name: str) -> dict[str, Any]:
    metadata = read_header(llama_cpp_models() / f"ggml-vocab-{name}.gguf").metadata
    return {"general.architecture": "llama"} | {
        f"tokenizer.ggml.{key}": metadata[f"tokenizer.ggml.{key}"] for key in KEYS
    }
