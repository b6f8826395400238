"""BERT's tokenizers (`tokenizer.ggml.model` = bert): the longest pieces of each word, from its beginning."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from runner.tokenizer.gguf.vocabulary import SPACE, TokenType, Vocabulary

_CONTINUATION = "##"
# As in BERT's own tokenizer.json: a longer word becomes the unknown token.
_LONGEST_WORD = 100


def word_piece_tokenizer(vocabulary: Vocabulary) -> Tokenizer:
    """Return the tokenizer, without special tokens."""
    names = [_own_name(token, kind) for token, kind in zip(vocabulary.tokens, vocabulary.types, strict=True)]
    tokenizer = Tokenizer(
        models.WordPiece(
            vocab={name: number for number, name in enumerate(names)},
            unk_token=names[vocabulary.unknown_id()],
            continuing_subword_prefix=_CONTINUATION,
            max_input_chars_per_word=_LONGEST_WORD,
        )
    )
    ignores_case = vocabulary.key("normalizer.lowercase", True)
    tokenizer.normalizer = normalizers.BertNormalizer(
        lowercase=ignores_case, strip_accents=vocabulary.key("normalizer.strip_accents", ignores_case)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix=_CONTINUATION)
    return tokenizer


def _own_name(token: str, kind: int) -> str:
    """Return the name in the model's own vocabulary: files mark what begins a word, BERT what continues one."""
    if kind in (TokenType.CONTROL, TokenType.UNKNOWN):
        return token
    return token.removeprefix(SPACE) if token.startswith(SPACE) else _CONTINUATION + token
