"""A GGUF file's vocabulary: its tokens with their types, and the ids that the file gives to special ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from runner.engine import EngineError
from runner.tokenizer.ends import CLOSING_NAMES

SPACE = "▁"
"""How SentencePiece writes a space; in BERT's vocabularies of this format, the mark of a word's beginning."""
_PREFIX = "tokenizer.ggml."
# llama.cpp's ids of special tokens, by the kind of the tokenizer, when a file does not name them (version 11434).
_USUAL_IDS: Mapping[str, Mapping[str, int]] = {
    "llama": {"bos": 1, "eos": 2, "unknown": 0},
    "t5": {"eos": 1, "unknown": 2},
    "bert": {"cls": 101, "seperator": 102, "unknown": 100},
}


class TokenType(IntEnum):
    """The format's numbers (`tokenizer.ggml.token_type`)."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class Vocabulary:
    """Token `i` is `tokens[i]`, of the type `types[i]`."""

    tokens: Sequence[str]
    types: Sequence[int]
    metadata: Mapping[str, Any]

    def key(self, name: str, default: Any = None) -> Any:
        """Return `tokenizer.ggml.NAME`."""
        return self.metadata.get(_PREFIX + name, default)

    def token_id(self, name: str) -> int | None:
        """Return the id under `NAME_token_id`, or the usual one of this kind of tokenizer; None if there is none.

        Raises EngineError for an impossible one.
        """
        number = self.key(f"{name}_token_id", _USUAL_IDS.get(self.key("model"), {}).get(name))
        if number is None:
            return None
        if not 0 <= int(number) < len(self.tokens):
            raise EngineError(
                f"the file says that token {number} is {name}, but has {len(self.tokens)} tokens; choose another file"
            )
        return int(number)

    def unknown_id(self) -> int:
        """Return the id of the token for what no other token can write. Raises EngineError for an impossible one."""
        return self.token_id("unknown") or 0

    def scores(self) -> list[float]:
        """Return each token's score. Raises EngineError if the file has none."""
        scores = self.key("scores")
        if not isinstance(scores, list) or len(scores) != len(self.tokens):
            raise EngineError("the file has no score (tokenizer.ggml.scores) for each token; choose another file")
        return scores

    def of_type(self, *types: TokenType) -> list[int]:
        """Return the ids of the tokens of these types."""
        return [number for number, kind in enumerate(self.types) if kind in types]


def read_vocabulary(metadata: Mapping[str, Any]) -> Vocabulary:
    """Return the vocabulary in a file's metadata. Raises EngineError if there is none, or a token occurs twice."""
    tokens = metadata.get(_PREFIX + "tokens")
    if not isinstance(tokens, list) or not tokens:
        raise EngineError("the file has no vocabulary (tokenizer.ggml.tokens); choose a file of a whole model")
    types = metadata.get(_PREFIX + "token_type") or [TokenType.NORMAL] * len(tokens)
    if len(types) != len(tokens):
        raise EngineError(f"the file has {len(tokens)} tokens, but {len(types)} types of tokens; download it again")
    # llama.cpp's converter writes no empty token; a file with one has it where a byte got lost.
    named_tokens = [token or f"[EMPTY_{number}]" for number, token in enumerate(tokens)]
    if len(known := set(named_tokens)) != len(named_tokens):
        token = next(token for token, count in Counter(named_tokens).items() if count > 1)
        raise EngineError(f"the file's vocabulary has the token {token!r} twice; choose another file of this model")
    # Some files call the token that closes turns an ordinary one: no text would become it, and no answer would end.
    numbers = {token: number for number, token in enumerate(named_tokens)} if known & CLOSING_NAMES else {}
    types = [*types]
    for name in CLOSING_NAMES & numbers.keys():
        types[numbers[name]] = TokenType.CONTROL
    return Vocabulary(named_tokens, types, metadata)
