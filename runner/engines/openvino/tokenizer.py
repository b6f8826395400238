"""Wraps OpenVINO's tokenizer for the engine: chat template, tokens of a prompt, text of tokens."""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runner.engine import GenerationRequest, PromptInvalid
from runner.engines.chat_template import template_messages, template_tools, tool_syntax, uses_template
from runner.engines.detokenizer import ByteDetokenizer, Detokenizer

# Enough to cover every kind of token next to many others.
PROBED_TOKENS = 512


class OpenVinoTokenizer:
    """Thread-safe."""

    def __init__(self, folder: Path, *, has_chat: bool) -> None:
        import openvino_genai

        self.library: Any = openvino_genai.Tokenizer(folder)
        self._lock = threading.Lock()
        self._has_template = has_chat and bool(self.library.chat_template)
        # Read from the template, not found by rendering it: for a template without tools the library invents a form of
        # its own, for which no model was trained.
        self.tool_syntax = tool_syntax(self.library.chat_template) if self._has_template else None
        self._table = _byte_table(self.library)

    def encode(self, request: GenerationRequest) -> tuple[int, ...]:
        """Return the prompt's tokens. Raises PromptInvalid."""
        with self._lock:
            text, is_templated = self._prompt_text(request)
            # A template writes the special tokens itself.
            tokens = self.library.encode(text, add_special_tokens=not is_templated).input_ids
            return tuple(tokens.data[0].tolist()) if tokens.get_size() else ()

    def detokenizer(self) -> Detokenizer | ByteDetokenizer:
        """Return a new detokenizer, for one generation."""
        return Detokenizer(self._decode) if self._table is None else ByteDetokenizer(self._table)

    def _decode(self, tokens: list[int]) -> str:
        with self._lock:
            text: str = self.library.decode(tokens, skip_special_tokens=True)
        return text

    def _prompt_text(self, request: GenerationRequest) -> tuple[str, bool]:
        if not uses_template(request, has_template=self._has_template):
            return request.prompt or "", False
        messages, tools = template_messages(request), template_tools(request)
        try:
            text: str = self.library.apply_chat_template(messages, add_generation_prompt=True, tools=tools)
        except RuntimeError as error:
            raise PromptInvalid(f"The model's chat template refuses these messages: {_reason(error)}.") from None
        return text, True


def _reason(error: RuntimeError) -> str:
    """Return the template's own message; the library puts advice before it and marks below it."""
    match = re.search(r"Minja's error: (.*?)(?: at row \d+, column \d+:)?$", str(error), re.MULTILINE)
    return match[1] if match else str(error).strip().rpartition("\n")[2]


def _byte_table(library: Any) -> Sequence[bytes] | None:
    """Return the bytes of each token; None if the library decodes tokens to anything but their bytes put together.

    The comparison finds word pieces that depend on their neighbours (such as a leading space that is dropped).
    """
    vocabulary: dict[bytes, int] = library.get_vocab()
    table = [b""] * (max(vocabulary.values(), default=-1) + 1)
    for text, token in vocabulary.items():
        table[token] = text
    alone = library.decode([[token] for token in range(len(table))], skip_special_tokens=True)
    for token, text in enumerate(alone):
        # Special tokens have no text; parts of characters have none of their own, and the table keeps their bytes.
        if not text and _is_whole(table[token]):
            table[token] = b""
        elif text != table[token].decode("utf-8", "ignore"):
            return None
    step = max(1, len(table) // PROBED_TOKENS)
    probe = range(0, len(table), step)
    text_by_table = b"".join(table[token] for token in probe).decode("utf-8", "ignore")
    return table if text_by_table == library.decode(list(probe), skip_special_tokens=True) else None


def _is_whole(text: bytes) -> bool:
    try:
        text.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
