"""The model's own tokenizer, from a GGUF file's metadata."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, processors

from runner.engine import ModelUnfit
from runner.tokenizer.ends import turn_ends
from runner.tokenizer.gguf.byte_level import byte_level_tokenizer, split_of
from runner.tokenizer.gguf.sentence_pieces import (
    PHI3_PLAIN,
    is_phi3,
    merged_piece_tokenizer,
    sentence_piece_tokenizer,
)
from runner.tokenizer.gguf.unigram import has_probabilities, unigram_tokenizer
from runner.tokenizer.gguf.vocabulary import TokenType, Vocabulary, read_vocabulary
from runner.tokenizer.gguf.word_pieces import word_piece_tokenizer

_TEMPLATE = "tokenizer.chat_template"
_ADDED_KINDS = (TokenType.UNKNOWN, TokenType.CONTROL, TokenType.USER_DEFINED)


def write_tokenizer(metadata: Mapping[str, Any], folder: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json and generation_config.json, with all ends of a turn.

    Raises ModelUnfit for a kind of tokenizer that is not known here, EngineError for a damaged vocabulary.
    """
    vocabulary = read_vocabulary(metadata)
    tokenizer = make_tokenizer(vocabulary)
    tokenizer.save(str(folder / "tokenizer.json"))
    _write_json(folder / "tokenizer_config.json", _config(vocabulary))
    ends = turn_ends(_control_tokens(vocabulary), (vocabulary.token_id(name) for name in ("eos", "eot", "eom")))
    _write_json(folder / "generation_config.json", {"eos_token_id": sorted(ends)})


def make_tokenizer(vocabulary: Vocabulary) -> Tokenizer:
    """Return the tokenizer of a vocabulary, with its special tokens. Raises ModelUnfit, EngineError."""
    kind = vocabulary.key("model")
    if kind not in _MAKERS:
        raise ModelUnfit(f"the file's tokenizer is of the kind {kind!r} (tokenizer.ggml.model), which is not known")
    tokenizer = _MAKERS[kind](vocabulary)
    _add_tokens(tokenizer, vocabulary)
    _add_ends_of_text(tokenizer, vocabulary)
    return tokenizer


def _sentence_piece_tokenizer(vocabulary: Vocabulary) -> Tokenizer:
    return unigram_tokenizer(vocabulary) if has_probabilities(vocabulary) else sentence_piece_tokenizer(vocabulary)


_MAKERS: Mapping[str, Callable[[Vocabulary], Tokenizer]] = {
    "gpt2": byte_level_tokenizer,
    "llama": _sentence_piece_tokenizer,
    "gemma4": merged_piece_tokenizer,
    "t5": unigram_tokenizer,
    "bert": word_piece_tokenizer,
}


def _add_tokens(tokenizer: Tokenizer, vocabulary: Vocabulary) -> None:
    """Let control and user-defined tokens be recognised in texts. Only control tokens have no text of their own."""
    takes_spaces = is_phi3(vocabulary)
    tokenizer.add_tokens(
        [
            AddedToken(
                vocabulary.tokens[number],
                special=vocabulary.types[number] != TokenType.USER_DEFINED,
                normalized=False,
                rstrip=takes_spaces and vocabulary.tokens[number] not in PHI3_PLAIN,
            )
            for number in vocabulary.of_type(*_ADDED_KINDS)
        ]
    )


def _add_ends_of_text(tokenizer: Tokenizer, vocabulary: Vocabulary) -> None:
    """Let raw prompts begin with BOS and end with EOS where the model wants it; in BERT these are CLS and SEP."""
    kind = vocabulary.key("model")
    adds_bos = split_of(vocabulary).adds_bos if kind == "gpt2" else kind != "t5"
    wanted = {
        "cls" if kind == "bert" else "bos": vocabulary.key("add_bos_token", adds_bos),
        "seperator" if kind == "bert" else "eos": vocabulary.key("add_eos_token", kind in ("t5", "bert")),
    }
    begin, end = (vocabulary.token_id(name) if is_wanted else None for name, is_wanted in wanted.items())
    parts = [[] if number is None else [vocabulary.tokens[number]] for number in (begin, end)]
    if parts != [[], []]:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=[*parts[0], "$A", *parts[1]],
            special_tokens=[(vocabulary.tokens[number], number) for number in (begin, end) if number is not None],
        )


def _control_tokens(vocabulary: Vocabulary) -> dict[str, int]:
    return {vocabulary.tokens[number]: number for number in vocabulary.of_type(*_ADDED_KINDS)}


def _config(vocabulary: Vocabulary) -> dict[str, Any]:
    """Return what a chat template needs beside its text: the names of special tokens."""
    ids = {f"{name}_token": vocabulary.token_id(name) for name in ("bos", "eos")}
    # Only a name for templates: files with an impossible one work.
    ids["pad_token"] = vocabulary.key("padding_token_id")
    config: dict[str, Any] = {
        key: vocabulary.tokens[number]
        for key, number in ids.items()
        if number is not None and number < len(vocabulary.tokens)
    }
    if template := _templates(vocabulary.metadata):
        config["chat_template"] = template
    return config


def _templates(metadata: Mapping[str, Any]) -> str | list[dict[str, str]] | None:
    """Return the chat template; a list of named ones, as transformers saves them, if there are several."""
    default = metadata.get(_TEMPLATE)
    others = {
        key.removeprefix(f"{_TEMPLATE}."): text for key, text in metadata.items() if key.startswith(f"{_TEMPLATE}.")
    }
    if not others:
        return default
    named = ({"default": default} if default else {}) | others
    return [{"name": name, "template": template} for name, template in sorted(named.items())]


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
