"""Reads the grammars that the runner writes, and makes texts from them: what an engine's library does, in small."""

from __future__ import annotations

import random
import re
from typing import Any

TOKEN = re.compile(
    r'\s*(?:(?P<name>[a-z][a-z0-9]*)|(?P<text>"(?:[^"\\]|\\.)*")|(?P<set>\[(?:[^\]\\]|\\.)*\])|'
    r"(?P<many>\{\d+(?:,\d*)?\}|[*+?])|(?P<sign>[()|]))"
)
ESCAPE = re.compile(r"\\(?:x([0-9a-f]{2})|U([0-9a-f]{8})|(.))", re.DOTALL)
# Characters that JSON treats in a way of its own, and some that it does not.
ODD = '"\\/\x00\t\n\x1f\x7f aZ09_-é日😀\u2028\ud7ff\U0010ffff'
DEEP = 30
ENDLESS = 10_000


class Grammar:
    """Rules by name; deep inside, each takes the shortest way out."""

    def __init__(self, rules: dict[str, Any]) -> None:
        self.rules = rules
        self._heights = dict.fromkeys(rules, ENDLESS)
        while True:
            found = {name: 1 + self._height(body) for name, body in rules.items()}
            if found == self._heights:
                break
            self._heights = found

    def sample(self, chance: random.Random) -> str:
        """One of the texts."""
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
            chosen = min(value, key=self._height) if depth > DEEP else chance.choice(value)
            return self._make(chosen, chance, depth)
        least, most = node[2]
        upto = least if depth > DEEP else min(least + 3 if most is None else most, least + 6)
        # The most that is allowed, too: bounds are where mistakes are.
        count = most if most is not None and depth <= DEEP and chance.random() < 0.2 else chance.randint(least, upto)
        return "".join(self._make(value, chance, depth) for _ in range(count))

    def _height(self, node: Any) -> int:
        """How deep its rules go at least."""
        kind, value = node[0], node[1]
        if kind == "rule":
            return min(self._heights[value], ENDLESS)
        if kind == "all":
            return max(map(self._height, value))
        if kind == "any":
            return min(map(self._height, value))
        return self._height(value) if kind == "many" and node[2][0] else 0


def read(text: str) -> Grammar:
    """The grammar of this text; an AssertionError where it is none."""
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
            found = TOKEN.match(body, position)
            assert found is not None, body[position : position + 40]
            self._tokens.append((str(found.lastgroup), str(found[str(found.lastgroup)])))
            position = found.end()
        self._next = 0

    def whole(self) -> Any:
        found = self._any()
        assert self._next == len(self._tokens)
        return found

    def _any(self) -> Any:
        found = [self._all()]
        while self._peek() == ("sign", "|"):
            self._next += 1
            found.append(self._all())
        return found[0] if len(found) == 1 else ("any", found)

    def _all(self) -> Any:
        found = []
        while self._peek()[0] and self._peek() not in (("sign", "|"), ("sign", ")")):
            found.append(self._repeated(self._one()))
        assert found, "an empty alternative"
        return ("all", found)

    def _one(self) -> Any:
        kind, text = self._tokens[self._next]
        self._next += 1
        if kind == "sign":
            assert text == "("
            found = self._any()
            assert self._peek() == ("sign", ")")
            self._next += 1
            return found
        if kind == "name":
            return ("rule", text)
        # What follows an escape, or another character beyond ASCII, xgrammar may take for part of it.
        if kind == "text":
            assert re.fullmatch(r'"([ -~]*|.|\\U.{8})"', text, re.DOTALL), text
            assert "\\U" not in text.replace("\\\\", "") or len(text) == 12, text
            return ("text", _unescaped(text[1:-1]))
        assert not re.search(r"\\(x..|U.{8})[0-9a-fA-F]", text.replace("\\\\", "")), text
        return ("set", _members(text[1:-1]))

    def _repeated(self, node: Any) -> Any:
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


def _unescaped(text: str) -> str:
    return ESCAPE.sub(lambda found: chr(int(found[1] or found[2], 16)) if found[1] or found[2] else found[3], text)


def _members(text: str) -> list[str]:
    """Some characters of a set: the ends of its ranges, and which of the odd ones lie in it."""
    is_negated, text = text.startswith("^"), text.removeprefix("^")
    singles = [_unescaped(found[0]) for found in re.finditer(r"\\x..|\\U.{8}|\\.|.", text, re.DOTALL)]
    ranges: list[tuple[str, str]] = []
    while singles:
        if len(singles) > 2 and singles[1] == "-":
            ranges.append((singles[0], singles[2]))
            del singles[:3]
        else:
            ranges.append((singles[0], singles[0]))
            del singles[:1]
    odd = [char for char in ODD if any(low <= char <= high for low, high in ranges) != is_negated]
    found = odd if is_negated else odd + [end for both in ranges for end in both]
    assert found, text
    return found
