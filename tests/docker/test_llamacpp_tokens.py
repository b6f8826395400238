"""Each kind of tokenizer and each way to split text (`tokenizer.ggml.pre`) gives the tokens of llama.cpp's library."""

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
from runner.tokenizer import ModelTokenizer, load_tokenizer, write_tokenizer
from runner.tokenizer.gguf.splits import SPLITS
from tests.docker.inside import run_in_image
from tests.runner.tokenizer.packages import llama_cpp_models
from tests.runner.tokenizer.texts import texts

pytestmark = [pytest.mark.real_model, pytest.mark.timeout(900)]

IMAGE = "orchestrar-llamacpp:11434.0.0"
COUNT = 2_100
START, END = "<|im_start|>", "<|im_end|>"
# Where llama.cpp splits otherwise than the model's own tokenizer, but no token of its vocabulary crosses the cut:
# Falcon's cuts numbers from the space before them, DeepSeek's cuts them into digits.
OWN_VOCABULARIES = {"falcon": "falcon", "deepseek-llm": "deepseek-llm"}
# Real vocabularies of kinds that split no text.
VOCABULARIES = ("llama-spm", "baichuan", "phi-3", "gemma-4", "nomic-bert-moe", "bert-bge")
CONTROL = 3


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _with_ascii_spaces(text: str) -> str:
    """Leave no space beyond ASCII: to llama.cpp it is a vertical tab, in no range of letters, or no space."""
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


def _without_syllables(text: str) -> str:
    """Leave no syllables of Korean, which llama.cpp cuts to their first letters, and no marks but plain accents."""
    return "".join(letter for letter in text if not "가" <= letter <= "힣" and unicodedata.category(letter) != "Mc")


_NOT_CASED = ("Lu", "Lt", "Mn", "Mc", "Me")
# What llama.cpp does otherwise than the models' own tokenizers, with which test_real_tokenizers compares all texts: it
# composes no letters (NFC), and its patterns know capitals only in ASCII, or not at all.
CHANGES: dict[str, Callable[[str], str]] = {
    **{pre: _composed for pre, split in SPLITS.items() if split.is_composed},
    **dict.fromkeys(("gpt-4o", "llama4", "kanana2", "minimax-m2", "tekken"), _of_one_case),
    **dict.fromkeys(("tiny_aya", "cohere2moe"), _without_case),
    **dict.fromkeys(("deepseek-llm", "deepseek-coder", "phi-3"), _with_ascii_spaces),
    "bert-bge": _without_syllables,
    # Hugging Face's normalizer, which is the models' own, keeps an accent apart from its letter before this one.
    "nomic-bert-moe": lambda text: text.replace("\U000e0041", ""),
}


Cases = dict[str, tuple[dict[str, Any], list[str]]]


@pytest.fixture(scope="module")
def cases() -> Cases:
    """Return for each name the metadata of a vocabulary, and texts."""
    trained = trained_vocabulary()
    chosen: Cases = {}
    for pre in SPLITS:
        vocabulary = own_vocabulary(OWN_VOCABULARIES[pre]) if pre in OWN_VOCABULARIES else trained
        words = [CHANGES.get(pre, str)(text) for text in texts(COUNT, (START, END))]
        chosen[pre] = ({**vocabulary, "tokenizer.ggml.pre": pre}, words)
    for name in VOCABULARIES:
        vocabulary = own_vocabulary(name)
        kinds = zip(vocabulary["tokenizer.ggml.tokens"], vocabulary["tokenizer.ggml.token_type"], strict=True)
        control = [token for token, kind in kinds if kind == CONTROL]
        chosen[name] = (vocabulary, [CHANGES.get(name, str)(text) for text in texts(COUNT, control[:8])])
    return chosen


@pytest.fixture(scope="module")
def llama_tokens(cases: Cases) -> dict[str, list[list[int]]]:
    """Return for each name llama.cpp's tokens of the texts."""
    if subprocess.run(["docker", "image", "inspect", IMAGE], capture_output=True, check=False).returncode:
        build = ["python3", "-m", "scripts.setup", "engine-image", "llamacpp"]
        subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=800)
    script = ROOT / "tests" / "docker" / "llamacpp_tokens.py"
    options = ("--user=0", f"--volume={script}:/llamacpp_tokens.py:ro", "--entrypoint=python3")
    rows = run_in_image(IMAGE, "/llamacpp_tokens.py", options=options, document=[*cases.values()], deadline_s=800)
    return dict(zip(cases, rows, strict=True))


@pytest.mark.parametrize("name", [*SPLITS, *VOCABULARIES])
def test_a_vocabulary_gives_the_tokens_of_llama_cpp(
    name: str, cases: Cases, llama_tokens: dict[str, list[list[int]]], tmp_path: Path
) -> None:
    """2,100 texts become the same tokens.

    For most splits the vocabulary was trained on the texts uncut, so that each cut shows in the tokens. Streamed, these
    are the texts again.
    """
    metadata, words = cases[name]
    write_tokenizer(metadata, tmp_path)
    tokenizer = load_tokenizer(tmp_path, has_chat=False)
    tokens = [[*tokenizer.encode_text(text, add_special_tokens=False)] for text in words]
    assert COUNT == len(llama_tokens[name])
    triples = zip(words, tokens, llama_tokens[name], strict=True)
    differing = [triple for triple in triples if triple[1] != triple[2]]
    assert [] == differing[:3], len(differing)
    if name in SPLITS and name not in OWN_VOCABULARIES:
        shown = [text.replace(START, "").replace(END, "") for text in words]
        assert shown == [streamed(tokenizer, row) for row in tokens]


def streamed(tokenizer: ModelTokenizer, tokens: list[int]) -> str:
    detokenizer = tokenizer.detokenizer()
    return "".join(map(detokenizer.feed, tokens)) + detokenizer.flush()


def trained_vocabulary() -> dict[str, Any]:
    """Return a byte-level vocabulary whose tokens cross every cut of a text, trained on the texts themselves."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=8_000, show_progress=False, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(texts(COUNT), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    return {
        "general.architecture": "llama",
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": [*tokens, START, END],
        "tokenizer.ggml.token_type": [1] * len(tokens) + [CONTROL, CONTROL],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in model["merges"]],
        "tokenizer.ggml.bos_token_id": len(tokens),
        "tokenizer.ggml.eos_token_id": len(tokens) + 1,
    }


def own_vocabulary(name: str) -> dict[str, Any]:
    """Return the metadata about the tokenizer in one of llama.cpp's test vocabularies."""
    metadata = read_header(llama_cpp_models() / f"ggml-vocab-{name}.gguf").metadata
    keys = [key for key in metadata if key.startswith("tokenizer.ggml.") or key == "general.name"]
    return {"general.architecture": "llama"} | {key: metadata[key] for key in keys}
