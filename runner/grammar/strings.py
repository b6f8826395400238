"""Describes what a string may hold: formats, and regular expressions as far as a grammar can express them.

An expression must match the whole string, as if anchored at both ends: a string that passes also matches without.
"""

from __future__ import annotations

import re

from runner.grammar.automaton import Alt, Chars, Node, Ranges, Repeat, Seq, text
from runner.grammar.rules import SchemaInvalid

_DATE = r"[12]\d{3}-((0[13578]|1[02])-(0[1-9]|[12]\d|3[01])|(0[469]|11)-(0[1-9]|[12]\d|30)|02-(0[1-9]|1\d|2[0-8]))"
_HOUR = r"([01]\d|2[0-3]):[0-5]\d"
_TIME = rf"{_HOUR}:[0-5]\d(\.\d{{1,6}})?(Z|[+-]{_HOUR})"
_OCTET = r"([1-9]?\d|1\d{2}|2[0-4]\d|25[0-5])"
# Other formats have no effect, as the specification of JSON Schema allows.
FORMATS = {
    "date": _DATE,
    "time": _TIME,
    "date-time": f"{_DATE}T{_TIME}",
    "uuid": "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
    "ipv4": rf"{_OCTET}(\.{_OCTET}){{3}}",
    "email": r"[a-zA-Z0-9]+([._+-][a-zA-Z0-9]+)*@([a-zA-Z0-9]+([-.][a-zA-Z0-9]+)*\.)[a-z]{2,6}",
}

# How JSON writes characters that it must escape; a grammar allows no other control characters.
_ESCAPES = {0x08: "b", 0x09: "t", 0x0A: "n", 0x0C: "f", 0x0D: "r", 0x22: '"', 0x5C: "\\"}
_PLAIN: Ranges = [(0x20, 0xD7FF), (0xE000, 0x10FFFF)]
_ASCII: Ranges = [(0x20, 0x7E)]
# Dialects differ beyond ASCII (does \w match é?); within it they agree.
_CLASSES: dict[str, Ranges] = {
    "d": [(0x30, 0x39)],
    "w": [(0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)],
    "s": [(0x20, 0x20)],
}
_CONTROL_ESCAPES = {"n": 0x0A, "t": 0x09, "r": 0x0D, "f": 0x0C}
# What a dot does not match, in any dialect.
_LINE_ENDS: Ranges = [(0x85, 0x85), (0x2028, 0x2029)]
_QUANTIFIER = re.compile(r"(?:([*+?])|\{(\d{1,4})(,(\d{0,4}))?\})\??")

MAX_PATTERN = 1000
MAX_GROUPS = 16


def pattern_node(pattern: object, at: str) -> Node:
    """Return the strings that match, as JSON writes them. Raises SchemaInvalid for what a grammar cannot express."""
    if not isinstance(pattern, str) or len(pattern) > MAX_PATTERN:
        raise SchemaInvalid(f"{at} must be a text of at most {MAX_PATTERN} characters")
    return _Pattern(pattern, at).whole()


class _Pattern:
    """Reads an expression from its beginning to its end."""

    def __init__(self, pattern: str, at: str) -> None:
        self._pattern = pattern
        self._at = at
        self._next = 0

    def whole(self) -> Node:
        node = self._alternatives(0)
        if self._next < len(self._pattern):
            raise self._refusal("closes a bracket that is not open")
        return node

    def _alternatives(self, depth: int) -> Node:
        if depth > MAX_GROUPS:
            raise self._refusal(f"has more than {MAX_GROUPS} nested groups")
        sequences = [self._sequence(depth)]
        while self._takes("|"):
            sequences.append(self._sequence(depth))
        return Alt(tuple(sequences))

    def _sequence(self, depth: int) -> Node:
        parts: list[Node] = []
        if depth == 0:
            self._takes("^")
        while self._peek() not in ("", "|", ")"):
            if depth == 0 and self._pattern[self._next : self._next + 2] in ("$", "$|"):
                self._next += 1
                break
            parts.append(self._quantified(self._atom(depth)))
        return Seq(tuple(parts))

    def _quantified(self, part: Node) -> Node:
        match = _QUANTIFIER.match(self._pattern, self._next)
        if match is None:
            return part
        self._next = match.end()
        sign, low, comma, high = match.groups()
        if sign:
            return Repeat(part, int(sign == "+"), 1 if sign == "?" else None)
        least, most = int(low), int(high) if high else None if comma else int(low)
        if most is not None and most < least:
            raise self._refusal(f"repeats from {least} to {most} times")
        return Repeat(part, least, most)

    def _atom(self, depth: int) -> Node:
        char = self._take()
        if char == "(":
            if self._peek() == "?" and not self._takes("?:"):
                raise self._refusal("has a special group, such as (?=…)")
            group = self._alternatives(depth + 1)
            if not self._takes(")"):
                raise self._refusal("leaves a bracket open")
            return group
        if char == "[":
            return self._characters(self._set())
        if char == ".":
            return self._characters(_without(_PLAIN, _LINE_ENDS))
        if char == "\\":
            return self._characters(self._escape_sequence()[0])
        if char in "^$*+?{":
            raise self._refusal(f'has a "{char}" in an unsupported place')
        return self._characters([(ord(char), ord(char))])

    def _set(self) -> Ranges:
        is_negated = self._takes("^")
        members: Ranges = []
        around = _PLAIN
        while not self._takes("]"):
            ranges, is_class = self._one_of_set()
            if is_class:
                around = _ASCII
            elif self._peek() == "-" and self._pattern[self._next + 1 : self._next + 2] != "]":
                self._next += 1
                end, is_class = self._one_of_set()
                if is_class or end[0][0] < ranges[0][0]:
                    raise self._refusal("has a range without an end")
                ranges = [(ranges[0][0], end[0][0])]
            members += ranges
        return _without(around, members) if is_negated else members

    def _one_of_set(self) -> tuple[Ranges, bool]:
        """Return the characters, and whether they are a class such as \\d."""
        char = self._take()
        return self._escape_sequence() if char == "\\" else ([(ord(char), ord(char))], False)

    def _escape_sequence(self) -> tuple[Ranges, bool]:
        char = self._take()
        if char.lower() in _CLASSES:
            ranges = _CLASSES[char.lower()]
            return (ranges if char.islower() else _without(_ASCII, ranges)), True
        if char in _CONTROL_ESCAPES:
            return [(_CONTROL_ESCAPES[char], _CONTROL_ESCAPES[char])], False
        if char in "xu":
            digits = self._pattern[self._next : self._next + (2 if char == "x" else 4)]
            self._next += len(digits)
            if not re.fullmatch("[0-9a-fA-F]{2}|[0-9a-fA-F]{4}", digits):
                raise self._refusal(f"has a \\{char} without its digits")
            return [(int(digits, 16), int(digits, 16))], False
        if char.isalnum():
            raise self._refusal(f"has a \\{char}, which is not supported")
        return [(ord(char), ord(char))], False

    def _characters(self, ranges: Ranges) -> Node:
        """Return the node of one of these characters, as JSON writes them."""
        nodes = [
            text("\\" + sign) for code, sign in _ESCAPES.items() if any(low <= code <= high for low, high in ranges)
        ]
        plain = _without(_common(ranges, _PLAIN), [(0x22, 0x22), (0x5C, 0x5C)])
        if plain:
            nodes.append(Chars(tuple(plain)))
        if not nodes:
            raise self._refusal("asks for characters that cannot be written in JSON")
        return Alt(tuple(nodes))

    def _peek(self) -> str:
        return self._pattern[self._next : self._next + 1]

    def _takes(self, text: str) -> bool:
        is_there = self._pattern.startswith(text, self._next)
        self._next += len(text) if is_there else 0
        return is_there

    def _take(self) -> str:
        char = self._peek()
        if not char:
            raise self._refusal("ends too early")
        self._next += 1
        return char

    def _refusal(self, what: str) -> SchemaInvalid:
        return SchemaInvalid(f"{self._at} is a pattern that the engine cannot enforce: it {what}")


def _without(ranges: Ranges, left_out: Ranges) -> Ranges:
    for start, end in left_out:
        ranges = [
            part
            for low, high in ranges
            for part in ((low, min(high, start - 1)), (max(low, end + 1), high))
            if part[0] <= part[1]
        ]
    return ranges


def _common(ranges: Ranges, others: Ranges) -> Ranges:
    pairs = [(max(low, start), min(high, end)) for low, high in ranges for start, end in others]
    return [(low, high) for low, high in pairs if low <= high]
