"""A model's chat template, rendered as transformers renders it, in a sandbox and within bounds.

A template is a program that comes with the model. It can call nothing of ours but the helpers below.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from jinja2 import TemplateError
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import CallBlock, Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment, safe_range

from runner.engine import GenerationRequest, PromptInvalid, ToolSyntax
from runner.tokenizer.chat_messages import template_messages, template_tools, tool_syntax

# Far above what a conversation needs. A longer prompt fits no context.
LONGEST_TEXT = 32 * 1024 * 1024
MOST_STEPS = 1_000_000


class ChatTemplate:
    """Thread-safe. `special_tokens` are the names that templates use: `bos_token`, `eos_token` and the like."""

    def __init__(self, source: str, special_tokens: Mapping[str, str], *, with_tools: str | None = None) -> None:
        """Compile `source`, and `with_tools`, the template for requests with tools, if it is another one.

        Raises ValueError if one is no template.
        """
        self._special_tokens = dict(special_tokens)
        self._sources = (source, with_tools or source)
        try:
            self._templates = tuple(_environment().from_string(text) for text in self._sources)
        except TemplateError as error:
            raise ValueError(f"line {getattr(error, 'lineno', '?')}: {error}") from None

    @property
    def tool_syntax(self) -> ToolSyntax | None:
        """How the model writes tool calls; None if the template supports none."""
        return tool_syntax(self._sources[1])

    def render(self, request: GenerationRequest) -> str:
        """Return the prompt's text. Raises PromptInvalid if the template refuses these messages."""
        messages, tools = template_messages(request), template_tools(request)
        template = self._templates[tools is not None]
        values = {**self._special_tokens, "messages": messages, "tools": tools, "range": _Counter().range}
        try:
            return "".join(_bounded(template.generate(**values, add_generation_prompt=True)))
        except (TemplateError, RecursionError, TypeError, ValueError, ArithmeticError, LookupError) as error:
            raise PromptInvalid(f"The model's chat template refuses these messages: {error}.") from None


def _bounded(pieces: Iterator[str]) -> Iterator[str]:
    length = 0
    for piece in pieces:
        length += len(piece)
        if length > LONGEST_TEXT:
            raise SecurityError(f"it writes more than {LONGEST_TEXT} characters")
        yield piece


class _Environment(ImmutableSandboxedEnvironment):
    """Refuses to make texts so long that they would take the container's memory."""

    intercepted_binops = frozenset(("*", "**"))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        is_number = isinstance(left, (int, float)) and isinstance(right, (int, float))
        if operator == "**" and not (is_number and abs(right) <= 64):
            raise SecurityError("it computes too large a power")
        if operator == "*" and not is_number:
            sizes = [len(value) if hasattr(value, "__len__") else int(value) for value in (left, right)]
            if sizes[0] * sizes[1] > LONGEST_TEXT:
                raise SecurityError("it repeats a text too often")
        return super().call_binop(context, operator, left, right)


class _GenerationTag(Extension):
    """`{% generation %}` marks the model's turns for training; here it only shows its content."""

    tags = {"generation"}  # noqa: RUF012  jinja's own attribute

    def parse(self, parser: Parser) -> Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return CallBlock(self.call_method("_content"), [], [], body).set_lineno(line)

    def _content(self, caller: Any) -> Any:
        return caller()


def _environment() -> ImmutableSandboxedEnvironment:
    environment = _Environment(trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols])
    environment.filters["tojson"] = _tojson
    environment.globals.update(raise_exception=_raise_exception, strftime_now=_strftime_now)
    return environment


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    # jinja's own filter escapes HTML.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format)


class _Counter:
    """Gives one rendering its `range`: all its loops together take a bounded number of steps."""

    def __init__(self) -> None:
        self._left = MOST_STEPS

    def range(self, *bounds: int) -> _CountedRange:
        return _CountedRange(safe_range(*bounds), self)

    def step(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise SecurityError(f"its loops take more than {MOST_STEPS} steps")


class _CountedRange:
    def __init__(self, numbers: range, counter: _Counter) -> None:
        self._numbers = numbers
        self._counter = counter

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, place: int) -> int:
        return self._numbers[place]

    def __iter__(self) -> Iterator[int]:
        for number in self._numbers:
            self._counter.step()
            yield number
