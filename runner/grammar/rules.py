"""Builds a grammar: its rules in EBNF, each only once, within bounds."""

from __future__ import annotations

import itertools
import json
import re
from typing import Any

from runner.engine import Grammar

# The cost of compiling grows with both: a little with each character of the text; much with each character that the
# length limits of strings count, up to a steady state.
MAX_TEXT = 32 * 1024
MAX_COUNTED = 600
MAX_COUNTED_ONCE = 200

_JSON_RULES = {
    "value": 'object | array | string | number | "true" | "false" | "null"',
    "object": '"{" (member (", " member)*)? "}"',
    "member": 'string ": " value',
    "array": '"[" (value (", " value)*)? "]"',
    "string": r'"\"" char* "\""',
    # No \u: half of a surrogate pair is not text, and a model can write é itself.
    "char": r'[^"\\\x00-\x1f] | "\\" ["\\/bfnrt]',
    "number": 'integer ("." [0-9]{1,16})? ([eE] [+-]? [0-9]{1,2})?',
    "integer": '"-"? ("0" | [1-9] [0-9]{0,15})',
}


class SchemaInvalid(Exception):
    """The schema is invalid, or no grammar can enforce it; the text says where and why."""


class Rules:
    """Starts with JSON's rules: value, object, array, string, char, number, integer."""

    def __init__(self) -> None:
        self._bodies = dict(_JSON_RULES)
        self._names = {body: name for name, body in self._bodies.items()}
        self._numbers = itertools.count(1)
        self._size = 0
        self._costs: dict[str, int] = {}

    def add(self, body: str) -> str:
        """Return the name of the rule with this body. Raises SchemaInvalid if the grammar gets too large."""
        name = body if body in self._bodies else self._names.get(body)
        if name is None:
            name = self._names[body] = self.reserve()
            self.define(name, body)
        return name

    def reserve(self) -> str:
        """Return a name for a rule to be defined later; its own body may use it, too."""
        return f"r{next(self._numbers)}"

    def define(self, name: str, body: str) -> None:
        """Give a reserved name its body. Raises SchemaInvalid if the grammar gets too large."""
        self._bodies[name] = body
        self._size += len(body)
        if self._size > MAX_TEXT:
            raise SchemaInvalid(f"its grammar has more than {MAX_TEXT} characters; make it smaller")

    def chars(self, least: int, most: int | None) -> str:
        """Return an expression for so many characters of a string. Raises SchemaInvalid as `add_cost` does."""
        expression = f"char{{{least},{'' if most is None else most}}}"
        self.add_cost(expression, min(least if most is None else most, MAX_COUNTED_ONCE))
        return expression

    def add_cost(self, expression: str, states: int) -> None:
        """Record the cost of an expression. Raises SchemaInvalid if all of them together cost too much."""
        self._costs[expression] = states
        if sum(self._costs.values()) > MAX_COUNTED:
            raise SchemaInvalid("its lengths and patterns take too long to compile; limit fewer of them, or to less")

    def grammar(self, root: str) -> Grammar:
        """Return the grammar of all rules, with this body for `root`."""
        lines = [f"{name} ::= {body}\n" for name, body in (("root", root), *self._bodies.items())]
        return Grammar("".join(lines), sum(self._costs.values()))


def literal(text: str) -> str:
    """Return exactly this text for a rule's body. Raises SchemaInvalid for lone surrogates."""
    if any("\ud800" <= char <= "\udfff" for char in text):
        raise SchemaInvalid("it has half a character (a lone surrogate)")
    # Other characters stand alone: before a hexadecimal digit, xgrammar would take the two for one escape.
    return " ".join(f'"{"".join(map(_escape, run))}"' for run in re.findall("[ -~]+|[^ -~]", text)) or '""'


def json_text(value: Any) -> str:
    """Return a JSON value as grammars write it: in one line, a space after commas and colons. Raises SchemaInvalid."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError:
        raise SchemaInvalid("it has a number that is too large") from None


def _escape(char: str) -> str:
    if char in '"\\':
        return "\\" + char
    return char if char.isprintable() else f"\\U{ord(char):08x}"
