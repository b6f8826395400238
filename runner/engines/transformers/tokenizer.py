"""The tokenizer that transformers has loaded, as all engines use it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from runner.engine import EngineError
from runner.tokenizer import ModelTokenizer
from runner.tokenizer.chat_template import ChatTemplate
from runner.tokenizer.ends import turn_ends
from runner.tokenizer.folder import make_template, read_template_file


def from_pretrained(
    tokenizer: Any, *, has_chat: bool, named_ends: int | list[int] | None, template_file: Path | None = None
) -> ModelTokenizer:
    """Return the model's tokenizer. `named_ends` are the ends of its generation_config. Raises EngineError.

    `template_file` has a chat template instead of the model's own.

    transformers makes one of the library `tokenizers` from every form of tokenizer that it knows, with few exceptions.
    """
    library = getattr(tokenizer, "backend_tokenizer", None)
    if library is None:
        raise EngineError(
            f"the model's tokenizer ({type(tokenizer).__name__}) runs in Python only, which is not served; "
            "choose a source with a tokenizer.json"
        )
    ids = named_ends if isinstance(named_ends, list) else [named_ends]
    added = {token.content: number for number, token in library.get_added_tokens_decoder().items()}
    return ModelTokenizer(
        library,
        template=_template(tokenizer, template_file) if has_chat else None,
        ends=turn_ends(added, [tokenizer.eos_token_id, *ids]),
    )


def _template(tokenizer: Any, template_file: Path | None) -> ChatTemplate | None:
    names = {key: str(value) for key, value in tokenizer.special_tokens_map.items() if isinstance(value, str)}
    if template_file is not None:
        return read_template_file(template_file, names)
    sources = tokenizer.chat_template or {}
    return make_template({"default": sources} if isinstance(sources, str) else sources, names)
