"""SentencePiece's tokenizers that merge pieces (`tokenizer.ggml.model` = llama), and Gemma 4's."""

from __future__ import annotations

from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from runner.engine import ModelUnfit
from runner.tokenizer.gguf.byte_level import read_merges
from runner.tokenizer.gguf.vocabulary import SPACE, TokenType, Vocabulary

# Phi-3's added tokens take the spaces and line ends after them, but not these ones. The format has no key for it.
PHI3_PLAIN = frozenset({"<unk>", "<s>", "<|endoftext|>"})


def sentence_piece_tokenizer(vocabulary: Vocabulary) -> Tokenizer:
    """Return the tokenizer of pieces with scores, without special tokens. Raises EngineError, ModelUnfit."""
    steps: list[Any] = [normalizers.Replace(" ", SPACE)]
    if vocabulary.key("add_space_prefix", True):
        steps.insert(0, normalizers.Prepend(SPACE))
    if vocabulary.key("remove_extra_whitespaces", False):
        steps.insert(0, normalizers.Replace(Regex(" {2,}"), " "))
    return _tokenizer(vocabulary, _merges_by_score(vocabulary), normalizers.Sequence(steps))


def is_phi3(vocabulary: Vocabulary) -> bool:
    """Tell whether the tokenizer is Phi-3's: by the file's architecture, or as llama.cpp does by the model's name."""
    architecture = vocabulary.metadata.get("general.architecture")
    name = str(vocabulary.metadata.get("general.name", "")).lower()
    return vocabulary.key("model") == "llama" and (architecture == "phi3" or "phi-3" in name or "phi3" in name)


def merged_piece_tokenizer(vocabulary: Vocabulary) -> Tokenizer:
    """Return the tokenizer of pieces with a list of merges (Gemma 4's), without special tokens."""
    return _tokenizer(vocabulary, read_merges(vocabulary), normalizers.Replace(" ", SPACE))


def _tokenizer(vocabulary: Vocabulary, merges: list[tuple[str, str]], normalizer: Any) -> Tokenizer:
    tokenizer = Tokenizer(
        models.BPE(
            vocab={token: number for number, token in enumerate(vocabulary.tokens)},
            merges=merges,
            unk_token=vocabulary.tokens[vocabulary.unknown_id()],
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    tokenizer.normalizer = normalizer
    # As in Gemma's own tokenizer.json. It cuts nothing: the normalizer leaves no space.
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", behavior="merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer


def _merges_by_score(vocabulary: Vocabulary) -> list[tuple[str, str]]:
    """Return the merges that lead to each piece, the best scores first: SentencePiece merges the best pair first.

    Every way to cut a piece in two other pieces is a merge: the library needs each, since it does not know in which
    order the parts come to be.
    """
    scores = vocabulary.scores()
    kinds = (TokenType.NORMAL, TokenType.USER_DEFINED, TokenType.UNUSED)
    pieces = {vocabulary.tokens[number]: number for number in vocabulary.of_type(*kinds)}
    if len(pieces) > 1 and len({scores[number] for number in pieces.values()}) == 1:
        # llama.cpp's converter writes -1000 where it has no SentencePiece model, but only a tokenizer.json.
        raise ModelUnfit(
            f"the file does not say in which order its tokenizer merges pieces: all scores (tokenizer.ggml.scores) are "
            f"{scores[next(iter(pieces.values()))]:g}; choose another file of this model"
        )
    merges = []
    for piece, number in pieces.items():
        cuts = [
            (piece[:cut], piece[cut:])
            for cut in range(1, len(piece))
            if piece[:cut] in pieces and piece[cut:] in pieces
        ]
        merges += [((-scores[number], pieces[left], pieces[right]), (left, right)) for left, right in cuts]
    return [pair for _, pair in sorted(merges)]
