"""OpenVINO's tokenizer as the engine needs it: chat template, tokens of a prompt, text of tokens."""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runner.engine import GenerationRequest, PromptInvalid
from runner.engines.chat_template import template_messages, template_tools, tool_syntax
from runner.engines.detokenizer import ByteDetokenizer, Detokenizer

# Enough to meet every kind of token next to many others.
PROBED_TOKENS = 512


class OpenVinoTokenizer:
    """Thread-safe."""

    def __init__(self, folder: Path, *, has_chat: bool) -> None:
        import openvino_genai

        self.library: Any = openvino_genai.Tokenizer(folder)
        self._lock = threading.Lock()
        self._has_template = has_chat and bool(self.library.chat_template)
        # Not asked by rendering: for a template without tools the library invents a form of its own, which no model
        # was trained for.
        self.tool_syntax = tool_syntax(self.library.chat_template) if self._has_template else None
        self._table = _byte_table(self.library)

    def encode(self, request: GenerationRequest) -> tuple[int, ...]:
        """The prompt's tokens. Raises PromptInvalid."""
        with self._lock:
            text, is_templated = self._prompt_text(request)
            # A template writes the special tokens itself.
            found = self.library.encode(text, add_special_tokens=not is_templated).input_ids
            return tuple(found.data[0].tolist()) if found.get_size() else ()

    def detokenizer(self) -> Detokenizer | ByteDetokenizer:
        """A new one, for one generation."""
        return Detokenizer(self._decode) if self._table is None else ByteDetokenizer(self._table)

    def _decode(self, tokens: list[int]) -> str:
        with self._lock:
            text: str = self.library.decode(tokens, skip_special_tokens=True)
        return text

    def _prompt_text(self, request: GenerationRequest) -> tuple[str, bool]:
        if request.prompt is not None and (request.raw or not self._has_template):
            return request.prompt, False
        if not self._has_template:
            raise PromptInvalid("This model has no chat template; send a prompt.", param="messages")
        messages, tools = template_messages(request), template_tools(request)
        try:
            text: str = self.library.apply_chat_template(messages, add_generation_prompt=True, tools=tools)
        except RuntimeError as error:
            raise PromptInvalid(f"The model's chat template refuses these messages: {_reason(error)}.") from None
        return text, True


def _reason(error: RuntimeError) -> str:
    """What the template said; the library puts its own advice before it, and marks below it."""
    found = re.search(r"Minja's error: (.*?)(?: at row \d+, column \d+:)?$", str(error), re.MULTILINE)
    return found[1] if found else str(error).strip().rpartition("\n")[2]


def _byte_table(library: Any) -> Sequence[bytes] | None:
    """The bytes of each token, where those put together are what the library decodes; None where they are not.

    Word pieces that depend on their neighbours (a leading space that is dropped) show in the comparison.
    """
    vocabulary: dict[bytes, int] = library.get_vocab()
    table = [b""] * (max(vocabulary.values(), default=-1) + 1)
    for text, token in vocabulary.items():
        table[token] = text
    alone = library.decode([[token] for token in range(len(table))], skip_special_tokens=True)
    for token, text in enumerate(alone):
        # Special tokens, which are left out; and parts of characters, which a table holds as they are.
        if not text and _is_whole(table[token]):
            table[token] = b""
        elif text != table[token].decode("utf-8", "ignore"):
            return None
    step = max(1, len(table) // PROBED_TOKENS)
    probe = range(0, len(table), step)
    joined = b"".join(table[token] for token in probe).decode("utf-8", "ignore")
    return table if joined == library.decode(list(probe), skip_special_tokens=True) else None


def _is_whole(text: bytes) -> bool:
    try:
        text.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
