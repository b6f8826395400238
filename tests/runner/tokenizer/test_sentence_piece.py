"""Tokenizers of SentencePiece, from a GGUF file's metadata, against the library SentencePiece itself."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

from runner.tokenizer import load_tokenizer, write_tokenizer
from tests.runner.tokenizer.packages import wheel_file
from tests.runner.tokenizer.texts import texts

pytestmark = pytest.mark.real_model

COUNT = 2_500
MISTRAL = "mistral-common==1.13.1"
# Around it, Hugging Face's normalizer keeps letters and their accents apart, also in the models' own tokenizer.json.
TAG = "\U000e0041"


def trained(**options: Any) -> SentencePieceProcessor:
    """Return a small model, trained on the texts. The library reads no NUL in training."""
    file = io.BytesIO()
    sentences = (text.replace("\0", "") for text in texts(COUNT))
    SentencePieceTrainer.train(
        sentence_iterator=sentences,
        model_writer=file,
        vocab_size=1_500,
        hard_vocab_limit=False,
        minloglevel=2,
        **options,
    )
    return SentencePieceProcessor(model_proto=file.getvalue())


def mistral(name: str) -> SentencePieceProcessor:
    return SentencePieceProcessor(model_file=str(wheel_file(MISTRAL, f"mistral_common/data/{name}")))


PLAIN: dict[str, Any] = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}
OWN: dict[str, tuple[str, Callable[[], SentencePieceProcessor]]] = {
    "merges": ("llama", lambda: trained(model_type="bpe", byte_fallback=True, **PLAIN)),
    "Mistral 7B": ("llama", lambda: mistral("tokenizer.model.v1")),
    "Mistral 7B v0.3": ("llama", lambda: mistral("mistral_instruct_tokenizer_240323.model.v3")),
    "unigram with bytes": ("llama", lambda: trained(model_type="unigram", byte_fallback=True, **PLAIN)),
    "unigram": ("t5", lambda: trained(model_type="unigram")),
}


@pytest.mark.parametrize("name", OWN)
def test_a_gguf_has_the_tokens_of_sentence_piece(name: str, tmp_path: Path) -> None:
    """2,500 texts become the tokens of the library; streamed back, they are its text, with the first space."""
    kind, make = OWN[name]
    own = make()
    metadata = gguf_metadata(own, kind)
    words = texts(COUNT)
    if kind == "t5":
        metadata["tokenizer.ggml.precompiled_charsmap"] = [*charsmap(own)]
        metadata["tokenizer.ggml.remove_extra_whitespaces"] = True
        words = [text.replace(TAG, "") for text in words]
    write_tokenizer(metadata, tmp_path)
    tokenizer = load_tokenizer(tmp_path, has_chat=False)
    differing = []
    for text in words:
        expected, tokens = own.encode(text), tokenizer.encode_text(text, add_special_tokens=False)
        if tuple(expected) != tokens:
            differing.append((text, expected, tokens))
        detokenizer = tokenizer.detokenizer()
        streamed = "".join(map(detokenizer.feed, tokens)) + detokenizer.flush()
        # The library writes the unknown token as a sign of its own.
        assert own.unk_id() in tokens or own.decode(expected) == streamed.removeprefix(" "), text
    assert [] == differing[:3], len(differing)


def gguf_metadata(own: SentencePieceProcessor, kind: str) -> dict[str, Any]:
    """Return what llama.cpp's converter writes into a GGUF file for this model."""
    numbers = range(own.get_piece_size())
    values = {
        "model": kind,
        "tokens": [own.id_to_piece(number) for number in numbers],
        "scores": [own.get_score(number) for number in numbers],
        "token_type": [_type(own, number) for number in numbers],
        "unknown_token_id": own.unk_id(),
        "bos_token_id": own.bos_id(),
        "eos_token_id": own.eos_id(),
    }
    return {f"tokenizer.ggml.{key}": value for key, value in values.items()}


def charsmap(own: SentencePieceProcessor) -> bytes:
    """Return the table of the model's normalization: in the file, the bytes after the rule's name and their length."""
    _, _, rest = own.serialized_model_proto().partition(b"\x0a\x08nmt_nfkc\x12")
    digits = next(place for place, byte in enumerate(rest) if byte < 0x80) + 1
    length = sum((byte & 0x7F) << (7 * place) for place, byte in enumerate(rest[:digits]))
    return rest[digits : digits + length]


def _type(own: SentencePieceProcessor, number: int) -> int:
    kinds = ((own.is_unknown, 2), (own.is_control, 3), (own.is_unused, 5), (own.is_byte, 6))
    return next((kind for is_kind, kind in kinds if is_kind(number)), 1)
