"""JSON schemas as grammars: whatever text a grammar lets through is JSON that keeps the schema.

Written here and not left to the engines' libraries, since a schema is a promise: theirs passes over keywords that it
does not know, and lets through quotes, control characters and numbers that it should not. What a grammar cannot hold
an answer to is refused by name. Where a schema leaves a choice (spaces, properties that it does not name, the order),
the grammar takes one: answers get shorter, and a small model has fewer ways to go on for ever.
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
    found_in,
    is_number,
    place,
    refuse_beside,
    refuse_unheld,
    types_of,
)
from runner.grammar.strings import FORMATS, pattern_node

EMPTY = '""'
MAX_DEPTH = 64
# With each token the engine follows all that begin alike.
MAX_ALTERNATIVES = 50
# No answer is as long, so what is beyond sets no bound.
NO_BOUND = 100_000
MAX_LEAST = 10_000
# Further digits than these make a grammar long, and a number that computers round.
MAX_NUMBER = 10**15
MAX_PLACES = 12

_DIGIT = Chars(((0x30, 0x39),))
_CHAR = Alt((Chars(((0x20, 0x21), (0x23, 0x5B), (0x5D, 0xD7FF), (0xE000, 0x10FFFF))),
             Seq((text("\\"), Alt(tuple(text(sign) for sign in '"\\/bfnrt'))))))  # fmt: skip
_INTEGER = Seq((Repeat(text("-"), 0, 1), Alt((text("0"), Seq((Chars(((0x31, 0x39),)), Repeat(_DIGIT, 0, 15)))))))
# The same as the rules of these names, for where one of them is among several alternatives.
_REGULAR: dict[str, Node] = {
    "string": Seq((text('"'), Repeat(_CHAR, 0, None), text('"'))),
    "integer": _INTEGER,
    "number": Seq((_INTEGER, Repeat(Seq((text("."), Repeat(_DIGIT, 1, 16))), 0, 1),
                   Repeat(Seq((Chars(((0x45, 0x45), (0x65, 0x65))), Repeat(Chars(((0x2B, 0x2B), (0x2D, 0x2D))), 0, 1),
                               Repeat(_DIGIT, 1, 2))), 0, 1))),
}  # fmt: skip


def schema_grammar(schema: Any) -> Grammar:
    """The grammar of this schema's values. Raises SchemaInvalid."""
    rules = Rules()
    return rules.grammar(schema_rule(rules, schema))


def schema_rule(rules: Rules, schema: Any) -> str:
    """An expression for this schema's values, its rules added to those there are. Raises SchemaInvalid."""
    return _Converter(rules, schema).value(schema, ())


class _Converter:
    """One schema; references point into it."""

    def __init__(self, rules: Rules, document: Any) -> None:
        self._rules = rules
        self._document = document
        self._referred: dict[str, list[str | Node]] = {}
        self._open: set[str] = set()
        """References of which nothing is written yet: who meets one again would never come to its value."""
        self._depth = 0

    def value(self, schema: Any, at: Path) -> str:
        """A sequence for the values of this part of the schema."""
        return self._written(self._alternatives(schema, at), at)

    def _alternatives(self, schema: Any, at: Path) -> list[str | Node]:
        """Names of rules, and what is regular still as it is: only all of it together is made an automaton."""
        if schema is True:
            return ["value"]
        if not isinstance(schema, dict):
            raise SchemaInvalid(f"{place(at)} {'lets nothing through' if schema is False else 'must be an object'}")
        refuse_unheld(schema, at)
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise SchemaInvalid(f"it is nested more than {MAX_DEPTH} deep")
        try:
            for keyword in DECIDING:
                if keyword in schema:
                    refuse_beside(keyword, schema, at)
                    return self._decided(keyword, schema, at)
            return [self._typed(name, schema, at) for name in types_of(schema, at) or ["any"]]
        finally:
            self._depth -= 1

    def _decided(self, keyword: str, schema: Mapping[str, Any], at: Path) -> list[str | Node]:
        given = schema[keyword]
        if keyword == "$ref":
            return self._reference(given, at)
        options = [given] if keyword == "const" else given
        if not isinstance(options, list):
            raise SchemaInvalid(f"{place(at, keyword)} must be a list")
        if keyword in ("const", "enum"):
            types = types_of(schema, at)
            return [text(json_text(option)) for option in options if fits(option, types)]
        if keyword == "allOf" and len(options) > 1:
            raise SchemaInvalid(f'{place(at)} has "allOf" of several schemas, to which an answer cannot be held')
        if keyword == "oneOf":
            check_apart(options, at, self._resolved)
        found = [self._alternatives(option, (*at, f"{keyword}[{n}]")) for n, option in enumerate(options)]
        return [alternative for alternatives in found for alternative in alternatives]

    def _written(self, alternatives: list[str | Node], at: Path) -> str:
        if not alternatives:
            raise SchemaInvalid(f"{place(at)} lets nothing through")
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
            found = self._alternatives(found_in(self._document, target, at), at)
            self._open.discard(target)
            if any(isinstance(alternative, str) for alternative in found):
                self._rules.define(name, self._written(found, at))
            else:
                self._referred[target] = found
        return self._referred[target]

    def _resolved(self, schema: Any) -> Any:
        seen: list[Any] = []
        while isinstance(schema, dict) and isinstance(schema.get("$ref"), str) and schema not in seen:
            seen.append(schema)
            schema = found_in(self._document, schema["$ref"], ())
        return schema

    def _typed(self, name: str, schema: Mapping[str, Any], at: Path) -> str | Node:
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
        # A bracket is written: whoever refers to an outer value from within comes to an end.
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
        # Who lists properties, even none, does not ask for others.
        further = schema.get("additionalProperties", "properties" not in schema and not required)
        members = []
        for name in dict.fromkeys((*properties, *required)):
            where = ("properties", name) if name in properties else ("additionalProperties",)
            # Required and not described: any value will do, unless further properties are described.
            value = properties.get(name, schema.get("additionalProperties", True))
            # A name of its own: members that begin alike must not be merged with each other's ends.
            written = self._rules.add(self.value(value, (*at, *where)))
            members.append((f"{literal(f'{json_text(name)}: ')} {written}", name in required))
        if members:
            return self._members(members)
        if further is False:
            return '"{}"'
        member = self._rules.add(f'string ": " {self.value(further, (*at, "additionalProperties"))}')
        return f'"{{" ({member} (", " {member})*)? "}}"'

    def _members(self, members: list[tuple[str, bool]]) -> str:
        """Those that are required and any of the others, in this order."""
        beginnings: list[str] = []
        rest = ""
        for member, is_required in reversed(members):
            beginning = f"{member} {rest}".rstrip()
            # None but those up to the first that is required may come first.
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
            raise SchemaInvalid(f"{place(at)} lets nothing through: it has fewer items than minItems")
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
            raise SchemaInvalid(f"{place(at)} has several of pattern, format and a length; all at once cannot be held")
        return Seq((text('"'), pattern_node(pattern, place(at, "pattern")), text('"')))

    def _number(self, name: str, schema: Mapping[str, Any], at: Path) -> str | Node:
        low, is_above = self._bound("minimum", "exclusiveMinimum", max, schema, at)
        high, is_below = self._bound("maximum", "exclusiveMaximum", min, schema, at)
        if low is None and high is None:
            return name
        if name == "number":
            found = decimals(low, high, is_above=is_above, is_below=is_below)
        else:
            first = None if low is None else math.floor(low) + 1 if is_above else math.ceil(low)
            last = None if high is None else math.ceil(high) - 1 if is_below else math.floor(high)
            found = integers(first, last)
        if not found.parts:
            raise SchemaInvalid(f"{place(at)} lets nothing through: no {name} lies within its bounds")
        return found

    def _bound(
        self, included: str, excluded: str, tighter: Callable[..., Decimal], schema: Mapping[str, Any], at: Path
    ) -> tuple[Decimal | None, bool]:
        """The bound that counts, and whether it is itself left out."""
        bounds = {}
        for keyword in (included, excluded):
            if keyword in schema:
                if not is_number(schema[keyword]):
                    raise SchemaInvalid(f"{place(at, keyword)} must be a number")
                bounds[keyword] = bound = Decimal(repr(schema[keyword]))
                if abs(bound) >= MAX_NUMBER or bound * 10**MAX_PLACES % 1:
                    raise SchemaInvalid(f"{place(at, keyword)} has more digits than an answer can be held to")
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
            raise SchemaInvalid(f"{place(at)} lets nothing through: {low} is more than {high}")
        return least, None if most is None or most >= NO_BOUND else most
