"""A small byte-level tokenizer, in the two forms that engines read: every token is visible text of its own."""

from __future__ import annotations

import json
import random
from functools import cache
from pathlib import Path
from typing import Any

from tests.families.table import VOCABULARY

END = "<|end|>"
_LETTERS = [chr(number) for number in range(0x21, 0x7F)]
MERGED = [first + second for first in "abcdefghijklmnopqrstuvwxyzTS" for second in "aeionrst"]
# "Ġ" is how byte-level vocabularies write a space.
TOKENS = [*_LETTERS, "Ġ", *MERGED, END]
assert len(TOKENS) == VOCABULARY
MERGES = [f"{pair[0]} {pair[1]}" for pair in MERGED]


def write_tokenizer(folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json."""
    (folder / "tokenizer.json").write_text(_library().to_str(), encoding="utf-8")
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")


def write_vocabulary(writer: Any) -> None:
    """Write the same tokenizer with gguf's writer."""
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(TOKENS)
    writer.add_token_types([1] * (VOCABULARY - 1) + [3])
    writer.add_token_merges(MERGES)
    writer.add_eos_token_id(VOCABULARY - 1)
    writer.add_add_bos_token(False)


def prompt_tokens(text: str) -> list[int]:
    """Return the text's tokens."""
    return list(_library().encode(text).ids)


def random_prompts(length: int, count: int) -> list[str]:
    """Return texts of words, each of so many tokens; the same in each run."""
    choose = random.Random(length)
    prompts: list[str] = []
    while len(prompts) < count:
        text = "".join(choose.choice(TOKENS[:-1]) for _ in range(length)).replace("Ġ", " ")
        if text == text.strip() and len(prompt_tokens(text)) == length:
            prompts.append(text)
    return prompts


def token_text(token: int) -> str:
    """Return what a token adds to an answer; nothing for the end."""
    return "" if token == VOCABULARY - 1 else TOKENS[token].replace("Ġ", " ")


@cache
def _library() -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    merges = [(pair[0], pair[1]) for pair in MERGED]
    library = Tokenizer(models.BPE(vocab={token: number for number, token in enumerate(TOKENS)}, merges=merges))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    library.add_special_tokens([AddedToken(END, special=True, normalized=False)])
    return library
