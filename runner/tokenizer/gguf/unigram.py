"""SentencePiece's unigram tokenizers: of all ways to cut a text, they take the most probable one."""

from __future__ import annotations

from math import isfinite
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers

from runner.tokenizer.gguf.vocabulary import SPACE, TokenType, Vocabulary


def has_probabilities(vocabulary: Vocabulary) -> bool:
    """Tell whether the scores are logarithms of probabilities. Scores of pieces that merge are places in an order."""
    return any(isfinite(score) and not float(score).is_integer() for score in vocabulary.scores())


def unigram_tokenizer(vocabulary: Vocabulary) -> Tokenizer:
    """Return the tokenizer, without special tokens. Raises EngineError for a file without a score for each token."""
    has_bytes = bool(vocabulary.of_type(TokenType.BYTE))
    tokenizer = Tokenizer(
        models.Unigram(
            [*zip(vocabulary.tokens, vocabulary.scores(), strict=True)],
            unk_id=vocabulary.unknown_id(),
            byte_fallback=has_bytes,
        )
    )
    tokenizer.normalizer = normalizers.Sequence(_normalizers(vocabulary))
    to_text = [decoders.Replace(SPACE, " "), *([decoders.ByteFallback()] if has_bytes else []), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence(to_text)
    return tokenizer


def _normalizers(vocabulary: Vocabulary) -> list[Any]:
    steps: list[Any] = []
    if charsmap := vocabulary.key("precompiled_charsmap"):
        # The format stores the bytes with or without a sign.
        steps.append(normalizers.Precompiled(bytes(byte % 256 for byte in charsmap)))
    if vocabulary.key("remove_extra_whitespaces", False):
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    if vocabulary.key("add_space_prefix", True):
        steps.append(normalizers.Prepend(SPACE))
    return [*steps, normalizers.Replace(" ", SPACE)]
