"""Turns JSON schemas into grammars: each text that a grammar allows is JSON that is valid against the schema.

The engines' libraries do not do this, since a schema is a promise: their conversion ignores keywords that it does not
know, and allows quotes, control characters and numbers that it should not. If a grammar cannot enforce a schema, the
request is refused, and the error names the keyword. If a schema leaves a choice (spaces, further properties, the
order), the grammar takes one: answers get shorter, and a small model has fewer ways to continue forever.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

from runner.engine import Grammar
from runner.grammar.automaton import Alt, Chars, Node, Repeat, Seq, regular, text
from runner.grammar.numbers import decimals, integers
from runner.grammar.rules import Rules, SchemaInvalid, json_text, literal
from runner.grammar.schema_keywords import (
    DECIDING,
    Path,
    check_apart,
    fits,
    is_number,
    look_up,
    place,
    refuse_beside,
    refuse_unenforceable,
    types_of,
)
from runner.grammar.strings import FORMATS, pattern_node

EMPTY = '""'
MAX_DEPTH = 64
# With each token, the engine follows all alternatives that begin alike.
MAX_ALTERNATIVES = 50
# No answer is this long, so a higher limit has no effect.
NO_BOUND = 100_000
MAX_LEAST = 10_000
# More digits make a long grammar, and a number that computers round.
MAX_NUMBER = 10**15
MAX_PLACES = 12

_DIGIT = Chars(((0x30, 0x39),))
_CHAR = Alt((Chars(((0x20, 0x21), (0x23, 0x5B), (0x5D, 0xD7FF), (0xE000, 0x10FFFF))),
             Seq((text("\\"), Alt(tuple(text(sign) for sign in '"\\/bfnrt'))))))  # fmt: skip
_INTEGER = Seq((Repeat(text("-"), 0, 1), Alt((text("0"), Seq((Chars(((0x31, 0x39),)), Repeat(_DIGIT, 0, 15)))))))
# The same as the rules of these names, for use among several alternatives.
_REGULAR: dict[str, Node] = {
    "string": Seq((text('"'), Repeat(_CHAR, 0, None), text('"'))),
    "integer": _INTEGER,
    "number": Seq((_INTEGER, Repeat(Seq((text("."), Repeat(_DIGIT, 1, 16))), 0, 1),
                   Repeat(Seq((Chars(((0x45, 0x45), (0x65, 0x65))), Repeat(Chars(((0x2B, 0x2B), (0x2D, 0x2D))), 0, 1),
                               Repeat(_DIGIT, 1, 2))), 0, 1))),
}  # fmt: skip


def schema_grammar(schema: Any) -> Grammar:
    """Return the grammar of this schema's values. Raises SchemaInvalid."""
    rules = Rules()
    return rules.grammar(schema_rule(rules, schema))


def schema_rule(rules: Rules, schema: Any) -> str:
    """Add the rules for this schema's values; return the expression for them. Raises SchemaInvalid."""
    return _Converter(rules, schema).value(schema, ())


class _Converter:
    """Converts one schema; references point into it."""

    def __init__(self, rules: Rules, document: Any) -> None:
        self._rules = rules
        self._document = document
        self._referred: dict[str, list[str | Node]] = {}
        self._open: set[str] = set()
        """References with nothing written yet: meeting one again would mean recursion without an end."""
        self._depth = 0

    def value(self, schema: Any, at: Path) -> str:
        """Return an expression for the values of this part of the schema."""
        return self._expression(self._alternatives(schema, at), at)

    def _alternatives(self, schema: Any, at: Path) -> list[str | Node]:
        """Return names of rules, and regular parts as nodes: only together do they become one automaton."""
        if schema is True:
            return ["value"]
        if not isinstance(schema, dict):
            raise SchemaInvalid(f"{place(at)} {'allows no value' if schema is False else 'must be an object'}")
        refuse_unenforceable(schema, at)
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise SchemaInvalid(f"it is nested more than {MAX_DEPTH} levels deep")
        try:
            for keyword in DECIDING:
                if keyword in schema:
                    refuse_beside(keyword, schema, at)
                    return self._alternatives_of(keyword, schema, at)
            return [self._values_of_type(name, schema, at) for name in types_of(schema, at) or ["any"]]
        finally:
            self._depth -= 1

    def _alternatives_of(self, keyword: str, schema: Mapping[str, Any], at: Path) -> list[str | Node]:
        value = schema[keyword]
        if keyword == "$ref":
            return self._reference(value, at)
        options = [value] if keyword == "const" else value
        if not isinstance(options, list):
            raise SchemaInvalid(f"{place(at, keyword)} must be a list")
        if keyword in ("const", "enum"):
            types = types_of(schema, at)
            return [text(json_text(option)) for option in options if fits(option, types)]
        if keyword == "allOf" and len(options) > 1:
            raise SchemaInvalid(f'{place(at)} has "allOf" of several schemas, which the engine cannot enforce')
        if keyword == "oneOf":
            check_apart(options, at, self._resolve)
        by_option = [self._alternatives(option, (*at, f"{keyword}[{n}]")) for n, option in enumerate(options)]
        return [alternative for alternatives in by_option for alternative in alternatives]

    def _expression(self, alternatives: list[str | Node], at: Path) -> str:
        if not alternatives:
            raise SchemaInvalid(f"{place(at)} allows no value")
        names = list(dict.fromkeys(name for name in alternatives if isinstance(name, str)))
        nodes = [node for node in alternatives if not isinstance(node, str)]
        if "value" in names:
            return "value"
        if len(names) + len(nodes) > 1:
            nodes += [_REGULAR[name] for name in names if name in _REGULAR]
            names = [name for name in names if name not in _REGULAR]
        if nodes:
            names.append(regular(self._rules, Alt(tuple(nodes))))
        if len(names) > MAX_ALTERNATIVES:
            raise SchemaInvalid(f"{place(at)} has more than {MAX_ALTERNATIVES} alternatives")
        return names[0] if len(names) == 1 else self._rules.add(" | ".join(names))

    def _reference(self, target: Any, at: Path) -> list[str | Node]:
        if not isinstance(target, str) or not (target == "#" or target.startswith("#/")):
            raise SchemaInvalid(f'{place(at, "$ref")} must point into this schema, as "#/$defs/…" does')
        if target in self._open:
            raise SchemaInvalid(f"{place(at)} refers to itself without an end")
        if target not in self._referred:
            name = self._rules.reserve()
            self._referred[target] = [name]
            self._open.add(target)
            alternatives = self._alternatives(look_up(self._document, target, at), at)
            self._open.discard(target)
            if any(isinstance(alternative, str) for alternative in alternatives):
                self._rules.define(name, self._expression(alternatives, at))
            else:
                self._referred[target] = alternatives
        return self._referred[target]

    def _resolve(self, schema: Any) -> Any:
        visited: list[Any] = []
        while isinstance(schema, dict) and isinstance(schema.get("$ref"), str) and schema not in visited:
            visited.append(schema)
            schema = look_up(self._document, schema["$ref"], ())
        return schema

    def _values_of_type(self, name: str, schema: Mapping[str, Any], at: Path) -> str | Node:
        if name == "object":
            return self._rules.add(self._bracketed(self._object, schema, at))
        if name == "array":
            return self._rules.add(self._bracketed(self._array, schema, at))
        if name == "string":
            return self._string(schema, at)
        if name in ("integer", "number"):
            return self._number(name, schema, at)
        return {"any": "value", "null": text("null")}.get(name) or Alt((text("true"), text("false")))

    def _bracketed(self, body: Callable[..., str], schema: Mapping[str, Any], at: Path) -> str:
        # The bracket is written first, so a reference from within to an outer value can end.
        outside, self._open = self._open, set()
        try:
            return body(schema, at)
        finally:
            self._open = outside

    def _object(self, schema: Mapping[str, Any], at: Path) -> str:
        properties, required = schema.get("properties", {}), schema.get("required", [])
        if not isinstance(properties, dict):
            raise SchemaInvalid(f"{place(at, 'properties')} must be an object")
        if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
            raise SchemaInvalid(f"{place(at, 'required')} must be a list of names")
        # A schema that lists properties, even none, does not ask for others.
        further = schema.get("additionalProperties", "properties" not in schema and not required)
        members = []
        for name in dict.fromkeys((*properties, *required)):
            where = ("properties", name) if name in properties else ("additionalProperties",)
            # A required property without a schema takes any value, unless there is a schema for further properties.
            value = properties.get(name, schema.get("additionalProperties", True))
            # A separate rule, so that xgrammar does not merge members that begin alike.
            rule = self._rules.add(self.value(value, (*at, *where)))
            members.append((f"{literal(f'{json_text(name)}: ')} {rule}", name in required))
        if members:
            return self._members(members)
        if further is False:
            return '"{}"'
        member = self._rules.add(f'string ": " {self.value(further, (*at, "additionalProperties"))}')
        return f'"{{" ({member} (", " {member})*)? "}}"'

    def _members(self, members: list[tuple[str, bool]]) -> str:
        """Return an expression for the required members and any of the others, in this order."""
        beginnings: list[str] = []
        rest = ""
        for member, is_required in reversed(members):
            beginning = f"{member} {rest}".rstrip()
            # Only members up to the first required one may come first.
            beginnings = [beginning] if is_required else [beginning, *beginnings]
            further = f'", " {member} {rest}'.rstrip()
            rest = self._rules.add(further if is_required else f"{further} | {rest or EMPTY}")
        inside = f"({' | '.join(beginnings)})"
        return f'"{{" {inside} "}}"' if any(is_required for _, is_required in members) else f'"{{" {inside}? "}}"'

    def _array(self, schema: Mapping[str, Any], at: Path) -> str:
        least, most = self._counts("minItems", "maxItems", schema, at)
        prefix, items = schema.get("prefixItems", []), schema.get("items", True)
        if not isinstance(prefix, list):
            raise SchemaInvalid(f"{place(at, 'prefixItems')} must be a list")
        first = [self.value(one, (*at, f"prefixItems[{n}]")) for n, one in enumerate(prefix[:most])]
        if items is False or len(first) == most:
            least, most = max(0, least - len(first)), 0
        elif first and "items" not in schema:
            least = most = max(0, least - len(first))
        else:
            least, most = max(0, least - len(first)), None if most is None else most - len(first)
        if most is not None and least > most:
            raise SchemaInvalid(f"{place(at)} allows no value: it has fewer items than minItems")
        return f'"[" {self._items(first, "" if most == 0 else self.value(items, (*at, "items")), least, most)} "]"'

    def _items(self, first: list[str], item: str, least: int, most: int | None) -> str:
        further = f'(", " {item}){{{least},{"" if most is None else most}}}' if item else ""
        if first:
            return ' ", " '.join(first) + (f" {further}" if further else "")
        if not item:
            return EMPTY
        upto = "" if most is None else most - 1
        return f'{item} (", " {item}){{{least - 1},{upto}}}' if least else f'({item} (", " {item}){{0,{upto}}})?'

    def _string(self, schema: Mapping[str, Any], at: Path) -> str | Node:
        least, most = self._counts("minLength", "maxLength", schema, at)
        pattern = schema.get("pattern", FORMATS.get(str(schema.get("format"))))
        if pattern is None:
            return (
                self._rules.add(f'"\\"" {self._rules.chars(least, most)} "\\""')
                if least or most is not None
                else "string"
            )
        if least or most is not None or ("pattern" in schema and str(schema.get("format")) in FORMATS):
            raise SchemaInvalid(f"{place(at)} has several of pattern, format and a length; use only one of them")
        return Seq((text('"'), pattern_node(pattern, place(at, "pattern")), text('"')))

    def _number(self, name: str, schema: Mapping[str, Any], at: Path) -> str | Node:
        low, is_above = self._bound("minimum", "exclusiveMinimum", max, schema, at)
        high, is_below = self._bound("maximum", "exclusiveMaximum", min, schema, at)
        if low is None and high is None:
            return name
        if name == "number":
            numbers = decimals(low, high, is_above=is_above, is_below=is_below)
        else:
            first = None if low is None else math.floor(low) + 1 if is_above else math.ceil(low)
            last = None if high is None else math.ceil(high) - 1 if is_below else math.floor(high)
            numbers = integers(first, last)
        if not numbers.parts:
            raise SchemaInvalid(f"{place(at)} allows no value: no {name} lies within its bounds")
        return numbers

    def _bound(
        self, included: str, excluded: str, tighter: Callable[..., Decimal], schema: Mapping[str, Any], at: Path
    ) -> tuple[Decimal | None, bool]:
        """Return the bound in force, and whether it is itself excluded."""
        bounds = {}
        for keyword in (included, excluded):
            if keyword in schema:
                if not is_number(schema[keyword]):
                    raise SchemaInvalid(f"{place(at, keyword)} must be a number")
                bounds[keyword] = bound = Decimal(repr(schema[keyword]))
                if abs(bound) >= MAX_NUMBER or bound * 10**MAX_PLACES % 1:
                    raise SchemaInvalid(f"{place(at, keyword)} has more digits than the engine can enforce")
        if not bounds:
            return None, False
        bound = tighter(bounds.values())
        return bound, bounds.get(excluded) == bound

    def _counts(self, low: str, high: str, schema: Mapping[str, Any], at: Path) -> tuple[int, int | None]:
        least, most = schema.get(low, 0), schema.get(high)
        for keyword, count in ((low, least), (high, most)):
            if count is not None and not (isinstance(count, int) and not isinstance(count, bool) and count >= 0):
                raise SchemaInvalid(f"{place(at, keyword)} must be a whole number from 0 up")
        if least > MAX_LEAST:
            raise SchemaInvalid(f"{place(at, low)} is more than {MAX_LEAST}")
        if most is not None and least > most:
            raise SchemaInvalid(f"{place(at)} allows no value: {low} is more than {high}")
        return least, None if most is None or most >= NO_BOUND else most
