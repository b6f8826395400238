"""The tokenizer that transformers has loaded, as all engines use it."""

from __future__ import annotations

from typing import Any

from runner.engine import EngineError
from runner.tokenizer import ModelTokenizer
from runner.tokenizer.chat_template import ChatTemplate
from runner.tokenizer.ends import turn_ends
from runner.tokenizer.folder import TOOL_TEMPLATE


def from_pretrained(tokenizer: Any, *, has_chat: bool, named_ends: int | list[int] | None) -> ModelTokenizer:
    """Return the model's tokenizer. `named_ends` are the ends of its generation_config. Raises EngineError.

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
        template=_template(tokenizer) if has_chat else None,
        ends=turn_ends(added, [tokenizer.eos_token_id, *ids]),
    )


def _template(tokenizer: Any) -> ChatTemplate | None:
    sources = tokenizer.chat_template
    if not sources:
        return None
    if isinstance(sources, str):
        sources = {"default": sources}
    names = {key: str(value) for key, value in tokenizer.special_tokens_map.items() if isinstance(value, str)}
    try:
        return ChatTemplate(
            sources.get("default") or next(iter(sources.values())), names, with_tools=sources.get(TOOL_TEMPLATE)
        )
    except ValueError as error:
        raise EngineError(f"the model's chat template is not valid ({error}); write `task: completion`") from None
