"""A grammar while it is written: its rules in EBNF, each once, within bounds."""

from __future__ import annotations

import itertools
import json
import re
from typing import Any

from runner.engine import Grammar

# What compiling takes grows with both: with the text little for each character; with the bounds of strings' lengths
# much for each character that they count, up to a steady state.
MAX_TEXT = 32 * 1024
MAX_COUNTED = 600
MAX_COUNTED_ONCE = 200

_JSON_RULES = {
    "value": 'object | array | string | number | "true" | "false" | "null"',
    "object": '"{" (member (", " member)*)? "}"',
    "member": 'string ": " value',
    "array": '"[" (value (", " value)*)? "]"',
    "string": r'"\"" char* "\""',
    # No \u: half of a pair would be no text. Who means é can write é.
    "char": r'[^"\\\x00-\x1f] | "\\" ["\\/bfnrt]',
    "number": 'integer ("." [0-9]{1,16})? ([eE] [+-]? [0-9]{1,2})?',
    "integer": '"-"? ("0" | [1-9] [0-9]{0,15})',
}


class SchemaInvalid(Exception):
    """The schema is none, or none that a grammar can hold an answer to; its text says where and why."""


class Rules:
    """Starts with JSON's own: value, object, array, string, char, number, integer."""

    def __init__(self) -> None:
        self._bodies = dict(_JSON_RULES)
        self._names = {body: name for name, body in self._bodies.items()}
        self._numbers = itertools.count(1)
        self._size = 0
        self._counted: dict[str, int] = {}

    def add(self, body: str) -> str:
        """The name of the rule with this body. Raises SchemaInvalid where the grammar gets too large."""
        name = body if body in self._bodies else self._names.get(body)
        if name is None:
            name = self._names[body] = self.reserve()
            self.define(name, body)
        return name

    def reserve(self) -> str:
        """The name of a rule that is still to be defined; its own body may use it, too."""
        return f"r{next(self._numbers)}"

    def define(self, name: str, body: str) -> None:
        """Gives a reserved name its body. Raises SchemaInvalid where the grammar gets too large."""
        self._bodies[name] = body
        self._size += len(body)
        if self._size > MAX_TEXT:
            raise SchemaInvalid(f"it comes to a grammar of more than {MAX_TEXT} characters; make it smaller")

    def chars(self, least: int, most: int | None) -> str:
        """So many characters of a string. Raises SchemaInvalid as `count` does."""
        found = f"char{{{least},{'' if most is None else most}}}"
        self.count(found, min(least if most is None else most, MAX_COUNTED_ONCE))
        return found

    def count(self, expression: str, states: int) -> None:
        """Notes how dear an expression is. Raises SchemaInvalid where all of them together cost too much."""
        self._counted[expression] = states
        if sum(self._counted.values()) > MAX_COUNTED:
            raise SchemaInvalid("its lengths and patterns take too long to compile; bound fewer of them, or at less")

    def grammar(self, root: str) -> Grammar:
        """All rules, and `root` with this body."""
        lines = [f"{name} ::= {body}\n" for name, body in (("root", root), *self._bodies.items())]
        return Grammar("".join(lines), sum(self._counted.values()))


def literal(text: str) -> str:
    """This very text, for a rule's body. Raises SchemaInvalid for what is no text."""
    if any("\ud800" <= char <= "\udfff" for char in text):
        raise SchemaInvalid("it holds half a character (a lone surrogate)")
    # Other characters stand alone: in front of a hexadecimal digit, xgrammar would take the two for one escape.
    return " ".join(f'"{"".join(map(_escaped, run))}"' for run in re.findall("[ -~]+|[^ -~]", text)) or '""'


def json_text(value: Any) -> str:
    """This JSON value as grammars write it: in one line, a space after each comma and colon. Raises SchemaInvalid."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError:
        raise SchemaInvalid("it holds a number that is too large") from None


def _escaped(char: str) -> str:
    if char in '"\\':
        return "\\" + char
    return char if char.isprintable() else f"\\U{ord(char):08x}"
