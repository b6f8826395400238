"""Tokenizers that merge bytes (`tokenizer.ggml.model` = gpt2)."""

from __future__ import annotations

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from runner.engine import EngineError, ModelUnfit
from runner.tokenizer.gguf.splits import SPLITS, Split
from runner.tokenizer.gguf.vocabulary import Vocabulary


def byte_level_tokenizer(vocabulary: Vocabulary) -> Tokenizer:
    """Return the tokenizer, without special tokens. Raises ModelUnfit for an unknown split."""
    split = split_of(vocabulary)
    tokenizer = Tokenizer(
        models.BPE(
            vocab={token: number for number, token in enumerate(vocabulary.tokens)},
            merges=read_merges(vocabulary),
            ignore_merges=split.prefers_whole_words,
        )
    )
    if split.is_composed:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            *(_isolate(pattern) for pattern in split.patterns),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split.has_gpt2_pattern),
            *(_isolate(pattern) for pattern in split.byte_patterns),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def split_of(vocabulary: Vocabulary) -> Split:
    """Return how the model cuts texts. Raises ModelUnfit if the file names no split, or one that is not known here."""
    name = vocabulary.key("pre")
    if name is None:
        raise ModelUnfit(
            "the file does not say how its tokenizer splits text (tokenizer.ggml.pre); "
            "choose a newer file of this model"
        )
    if name not in SPLITS:
        raise ModelUnfit(
            f"the file's tokenizer splits text in the way {name!r} (tokenizer.ggml.pre), which is not known"
        )
    return SPLITS[name]


def _isolate(pattern: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Split(Regex(pattern), behavior="isolated")


def read_merges(vocabulary: Vocabulary) -> list[tuple[str, str]]:
    """Return the pairs that merge, the first ones first. Raises EngineError if the file has none."""
    lines = vocabulary.key("merges")
    if not isinstance(lines, list):
        raise EngineError("the file has no merges (tokenizer.ggml.merges) for its tokenizer; choose another file")
    merges, tokens = [], set(vocabulary.tokens)
    for line in lines:
        # A part may itself begin with a space.
        left, space, right = line[1:].partition(" ")
        if not space or line[0] + left + right not in tokens:
            raise EngineError(f"the file's tokenizer has the broken merge {line!r}; download it again")
        merges.append((line[0] + left, right))
    return merges
