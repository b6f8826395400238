"""Reads a tokenizer from a model's folder, as Hugging Face lays it out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from runner.engine import EngineError
from runner.tokenizer.chat_template import ChatTemplate
from runner.tokenizer.ends import turn_ends
from runner.tokenizer.model_tokenizer import ModelTokenizer

# The name of the template for requests with tools, where a model has one of its own.
TOOL_TEMPLATE = "tool_use"


def load_tokenizer(folder: Path, *, has_chat: bool, template_file: Path | None = None) -> ModelTokenizer:
    """Return the tokenizer of a folder with a tokenizer.json. Raises EngineError that names the file at fault.

    `template_file` has a chat template instead of the model's own.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise EngineError("the model has no tokenizer.json; choose a source with this file, or a GGUF file")
    try:
        library = Tokenizer.from_file(str(path))
    except Exception as error:  # The library raises no narrower class.
        raise EngineError(f"tokenizer.json cannot be read: {error}; download the model again") from error
    config = read_json(folder / "tokenizer_config.json")
    special_tokens = _special_tokens(config, read_json(folder / "special_tokens_map.json"))
    if template_file is not None:
        template: ChatTemplate | None = read_template_file(template_file, special_tokens)
    else:
        template = read_template(folder, config, special_tokens) if has_chat else None
    return ModelTokenizer(
        library,
        template=template,
        ends=_ends(folder, library, special_tokens),
    )


def read_template(folder: Path, config: dict[str, Any], special_tokens: dict[str, str]) -> ChatTemplate | None:
    """Return the chat template of a model's folder, with the content of its tokenizer_config.json.

    None if there is none. Raises EngineError.
    """
    return make_template(_template_sources(folder, config), special_tokens)


def make_template(sources: Mapping[str, str], special_tokens: Mapping[str, str]) -> ChatTemplate | None:
    """Return the model's chat template, from its texts by name; None if there is none. Raises EngineError."""
    source = sources.get("default") or next(iter(sources.values()), None)
    if source is None:
        return None
    try:
        return ChatTemplate(source, special_tokens, with_tools=sources.get(TOOL_TEMPLATE))
    except ValueError as error:
        raise EngineError(
            f"the model's chat template is not valid ({error}); write `task: completion`, or name a file with another "
            "one as `chat_template`"
        ) from None


def read_template_file(path: Path, special_tokens: Mapping[str, str]) -> ChatTemplate:
    """Return the user's own chat template. Raises EngineError that names its file, and the line at fault."""
    try:
        return ChatTemplate(path.read_text(encoding="utf-8"), special_tokens)
    except (OSError, ValueError) as error:
        raise EngineError(f"the chat template {path.name} cannot be used: {error}; correct the file") from None


def read_json(path: Path) -> dict[str, Any]:
    """Return a file's object; empty without the file. Raises EngineError if it is no JSON object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise EngineError(f"{path.name} is not valid JSON: {error}; download the model again") from None
    return content if isinstance(content, dict) else {}


def _template_sources(folder: Path, config: dict[str, Any]) -> dict[str, str]:
    """Return the templates by name: those in files of their own, else those in tokenizer_config.json."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        sources = {"default": path.read_text(encoding="utf-8")}
        others = sorted((folder / "additional_chat_templates").glob("*.jinja"))
        return sources | {other.stem: other.read_text(encoding="utf-8") for other in others}
    template = config.get("chat_template") or read_json(folder / "chat_template.json").get("chat_template")
    if isinstance(template, str):
        return {"default": template}
    return {str(one["name"]): str(one["template"]) for one in template or []}


def _special_tokens(*configs: dict[str, Any]) -> dict[str, str]:
    """Return the names under which templates write special tokens, such as `bos_token`."""
    tokens = {}
    for config in configs:
        for key, value in config.items():
            text = value.get("content") if isinstance(value, dict) else value
            if key.endswith("_token") and isinstance(text, str):
                tokens[key] = text
    return tokens


def _ends(folder: Path, library: Tokenizer, special_tokens: dict[str, str]) -> frozenset[int]:
    named_ids: list[int | None] = [library.token_to_id(special_tokens.get("eos_token", ""))]
    for name in ("generation_config.json", "config.json"):
        value = read_json(folder / name).get("eos_token_id")
        named_ids += value if isinstance(value, list) else [value]
    added = {token.content: number for number, token in library.get_added_tokens_decoder().items()}
    return turn_ends(added, named_ids)
