"""The model's own tokenizer, from a GGUF file's metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
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
from runner.tokenizer.gguf.vocabulary import TokenType, Vocabulary, read_vocabulary

_TEMPLATE = "tokenizer.chat_template"
# llama.cpp's ids of SentencePiece's tokens when a file does not name them.
_SENTENCE_PIECE_IDS = {"bos": 1, "eos": 2}
_ADDED_KINDS = (TokenType.UNKNOWN, TokenType.CONTROL, TokenType.USER_DEFINED)


def write_tokenizer(metadata: Mapping[str, Any], folder: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json and generation_config.json, with all ends of a turn.

    Raises ModelUnfit for a kind of tokenizer that is not known here, EngineError for a damaged vocabulary.
    """
    vocabulary = read_vocabulary(metadata)
    tokenizer = make_tokenizer(vocabulary)
    tokenizer.save(str(folder / "tokenizer.json"))
    _write_json(folder / "tokenizer_config.json", _config(vocabulary))
    ends = turn_ends(_control_tokens(vocabulary), (_special_id(vocabulary, name) for name in ("eos", "eot", "eom")))
    _write_json(folder / "generation_config.json", {"eos_token_id": sorted(ends)})


def make_tokenizer(vocabulary: Vocabulary) -> Tokenizer:
    """Return the tokenizer of a vocabulary, with its special tokens. Raises ModelUnfit, EngineError."""
    kind = vocabulary.key("model")
    if kind == "gpt2":
        tokenizer = byte_level_tokenizer(vocabulary)
        adds_bos = split_of(vocabulary).adds_bos
    elif kind == "llama":
        tokenizer = sentence_piece_tokenizer(vocabulary)
        adds_bos = True
    elif kind == "gemma4":
        tokenizer = merged_piece_tokenizer(vocabulary)
        adds_bos = True
    else:
        raise ModelUnfit(f"the file's tokenizer is of the kind {kind!r} (tokenizer.ggml.model), which is not known")
    _add_tokens(tokenizer, vocabulary)
    _add_ends_of_text(tokenizer, vocabulary, adds_bos=adds_bos)
    return tokenizer


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


def _add_ends_of_text(tokenizer: Tokenizer, vocabulary: Vocabulary, *, adds_bos: bool) -> None:
    """Let raw prompts begin with BOS and end with EOS where the model wants it."""
    bos = _special_id(vocabulary, "bos") if vocabulary.key("add_bos_token", adds_bos) else None
    eos = _special_id(vocabulary, "eos") if vocabulary.key("add_eos_token", False) else None
    if bos is None and eos is None:
        return
    begin = [] if bos is None else [vocabulary.tokens[bos]]
    end = [] if eos is None else [vocabulary.tokens[eos]]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[*begin, "$A", *end],
        special_tokens=[(vocabulary.tokens[number], number) for number in (bos, eos) if number is not None],
    )


def _special_id(vocabulary: Vocabulary, name: str) -> int | None:
    default = _SENTENCE_PIECE_IDS.get(name) if vocabulary.key("model") == "llama" else None
    return vocabulary.token_id(name, default)


def _control_tokens(vocabulary: Vocabulary) -> dict[str, int]:
    return {vocabulary.tokens[number]: number for number in vocabulary.of_type(*_ADDED_KINDS)}


def _config(vocabulary: Vocabulary) -> dict[str, Any]:
    """Return what a chat template needs beside its text: the names of special tokens."""
    ids = {f"{name}_token": _special_id(vocabulary, name) for name in ("bos", "eos")}
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
