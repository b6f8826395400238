"""Reads the grammars that the runner writes, and generates texts from them, like a small engine's library."""

from __future__ import annotations

import random
import re
from typing import Any

TOKEN = re.compile(
    r'\s*(?:(?P<name>[a-z][a-z0-9]*)|(?P<text>"(?:[^"\\]|\\.)*")|(?P<set>\[(?:[^\]\\]|\\.)*\])|'
    r"(?P<many>\{\d+(?:,\d*)?\}|[*+?])|(?P<sign>[()|]))"
)
ESCAPE = re.compile(r"\\(?:x([0-9a-f]{2})|U([0-9a-f]{8})|(.))", re.DOTALL)
# Characters that JSON treats specially, and some that it does not.
ODD = '"\\/\x00\t\n\x1f\x7f aZ09_-é日😀\u2028\ud7ff\U0010ffff'
DEEP = 30
ENDLESS = 10_000


class Grammar:
    """Rules by name; deep inside, each takes the shortest alternative."""

    def __init__(self, rules: dict[str, Any]) -> None:
        self.rules = rules
        self._heights = dict.fromkeys(rules, ENDLESS)
        while True:
            heights = {name: 1 + self._height(body) for name, body in rules.items()}
            if heights == self._heights:
                break
            self._heights = heights

    def sample(self, chance: random.Random) -> str:
        """Return one of the texts."""
        return self._make(("rule", "root"), chance, 0)

    def _make(self, node: Any, chance: random.Random, depth: int) -> str:
        kind, value = node[0], node[1]
        if kind == "text":
            return str(value)
        if kind == "set":
            return str(chance.choice(value))
        if kind == "rule":
            return self._make(self.rules[value], chance, depth + 1)
        if kind == "all":
            return "".join(self._make(one, chance, depth) for one in value)
        if kind == "any":
            alternative = min(value, key=self._height) if depth > DEEP else chance.choice(value)
            return self._make(alternative, chance, depth)
        least, most = node[2]
        upto = least if depth > DEEP else min(least + 3 if most is None else most, least + 6)
        # Sometimes the maximum, since mistakes are likely at bounds.
        count = most if most is not None and depth <= DEEP and chance.random() < 0.2 else chance.randint(least, upto)
        return "".join(self._make(value, chance, depth) for _ in range(count))

    def _height(self, node: Any) -> int:
        """Return the least depth of its rules."""
        kind, value = node[0], node[1]
        if kind == "rule":
            return min(self._heights[value], ENDLESS)
        if kind == "all":
            return max(map(self._height, value))
        if kind == "any":
            return min(map(self._height, value))
        return self._height(value) if kind == "many" and node[2][0] else 0


def read(text: str) -> Grammar:
    """Return the grammar of this text; raise AssertionError if it is invalid."""
    rules = {}
    for line in text.strip("\n").split("\n"):
        name, _, body = line.partition(" ::= ")
        rules[name] = _Reader(body).whole()
    grammar = Grammar(rules)
    for rule in rules.values():
        _check_names(rule, set(rules))
    return grammar


def _check_names(node: Any, names: set[str]) -> None:
    if node[0] == "rule":
        assert node[1] in names, node[1]
    for one in node[1] if node[0] in ("all", "any") else [node[1]] if node[0] == "many" else []:
        _check_names(one, names)


class _Reader:
    def __init__(self, body: str) -> None:
        self._tokens: list[tuple[str, str]] = []
        position = 0
        while body[position:].strip():
            match = TOKEN.match(body, position)
            assert match is not None, body[position : position + 40]
            self._tokens.append((str(match.lastgroup), str(match[str(match.lastgroup)])))
            position = match.end()
        self._next = 0

    def whole(self) -> Any:
        node = self._any()
        assert self._next == len(self._tokens)
        return node

    def _any(self) -> Any:
        alternatives = [self._all()]
        while self._peek() == ("sign", "|"):
            self._next += 1
            alternatives.append(self._all())
        return alternatives[0] if len(alternatives) == 1 else ("any", alternatives)

    def _all(self) -> Any:
        parts = []
        while self._peek()[0] and self._peek() not in (("sign", "|"), ("sign", ")")):
            parts.append(self._with_quantifier(self._one()))
        assert parts, "an empty alternative"
        return ("all", parts)

    def _one(self) -> Any:
        kind, text = self._tokens[self._next]
        self._next += 1
        if kind == "sign":
            assert text == "("
            group = self._any()
            assert self._peek() == ("sign", ")")
            self._next += 1
            return group
        if kind == "name":
            return ("rule", text)
        # xgrammar may take what follows an escape, or another character beyond ASCII, for a part of it.
        if kind == "text":
            assert re.fullmatch(r'"([ -~]*|.|\\U.{8})"', text, re.DOTALL), text
            assert "\\U" not in text.replace("\\\\", "") or len(text) == 12, text
            return ("text", _unescape(text[1:-1]))
        assert not re.search(r"\\(x..|U.{8})[0-9a-fA-F]", text.replace("\\\\", "")), text
        return ("set", _members(text[1:-1]))

    def _with_quantifier(self, node: Any) -> Any:
        kind, text = self._peek()
        if kind != "many":
            return node
        self._next += 1
        if text in "*+?":
            return ("many", node, {"*": (0, None), "+": (1, None), "?": (0, 1)}[text])
        low, comma, high = text[1:-1].partition(",")
        return ("many", node, (int(low), int(high) if high else None if comma else int(low)))

    def _peek(self) -> tuple[str, str]:
        return self._tokens[self._next] if self._next < len(self._tokens) else ("", "")


def _unescape(text: str) -> str:
    return ESCAPE.sub(lambda match: chr(int(match[1] or match[2], 16)) if match[1] or match[2] else match[3], text)


def _members(text: str) -> list[str]:
    """Return some characters of a set: the ends of its ranges, and the odd characters in it."""
    is_negated, text = text.startswith("^"), text.removeprefix("^")
    singles = [_unescape(match[0]) for match in re.finditer(r"\\x..|\\U.{8}|\\.|.", text, re.DOTALL)]
    ranges: list[tuple[str, str]] = []
    while singles:
        if len(singles) > 2 and singles[1] == "-":
            ranges.append((singles[0], singles[2]))
            del singles[:3]
        else:
            ranges.append((singles[0], singles[0]))
            del singles[:1]
    odd = [char for char in ODD if any(low <= char <= high for low, high in ranges) != is_negated]
    members = odd if is_negated else odd + [end for both in ranges for end in both]
    assert members, text
    return members
