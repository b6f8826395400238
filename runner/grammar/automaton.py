"""Turns regular texts (choices, numbers, patterns) into grammar rules with only one derivation for each text.

xgrammar merges the alternatives of a rule wrongly if several begin alike: from the choices "ab", "a", "abc" and "b" it
makes a rule that also accepts "bb". So the texts first become a deterministic automaton, and its states become rules:
no two alternatives of a rule begin with the same character.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise

from runner.grammar.rules import Rules, SchemaInvalid, literal

# First and last code points.
Ranges = list[tuple[int, int]]

MAX_STATES = 40_000
# Patterns such as (a|b)*a(a|b){20} have few states as written, but very many once they are deterministic.
MAX_WORK = 200_000
# A state that accepts more characters than this is costly to compile.
WIDE = 12


@dataclass(frozen=True)
class Chars:
    """One of these characters."""

    ranges: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Seq:
    """These parts, one after the other."""

    parts: tuple[Node, ...]


@dataclass(frozen=True)
class Alt:
    """Any one of these parts."""

    parts: tuple[Node, ...]


@dataclass(frozen=True)
class Repeat:
    """The part, repeated from `least` to `most` times, or without a limit if `most` is None."""

    part: Node
    least: int
    most: int | None


Node = Chars | Seq | Alt | Repeat


def text(value: str) -> Node:
    """Return the node of exactly this text."""
    return Seq(tuple(Chars(((ord(char), ord(char)),)) for char in value))


def regular(rules: Rules, node: Node) -> str:
    """Return an expression for these texts. Raises SchemaInvalid if they need too many states or cost too much."""
    edges, accepting = _deterministic(_Nfa(node))
    wide = sum(1 for state in edges if sum(high - low + 1 for low, high, _ in state) > WIDE)
    expression = _write_rules(rules, edges, accepting)
    rules.add_cost(expression, wide)
    return expression


class _Nfa:
    """Thompson's construction: state 0 is the start."""

    def __init__(self, node: Node) -> None:
        self.steps: list[list[tuple[int, int, int]]] = []
        self.free: list[list[int]] = []
        self.end = self._add(node, self._state())

    def closure(self, states: set[int]) -> frozenset[int]:
        """Return these states, and all that follow without a character."""
        closure, left = set(states), list(states)
        while left:
            for state in self.free[left.pop()]:
                if state not in closure:
                    closure.add(state)
                    left.append(state)
        return frozenset(closure)

    def _state(self) -> int:
        if len(self.steps) >= MAX_STATES:
            raise SchemaInvalid("its numbers, choices and patterns need too many states; make them simpler")
        self.steps.append([])
        self.free.append([])
        return len(self.steps) - 1

    def _add(self, node: Node, start: int) -> int:
        """Add a node's texts after a state; return the state after them."""
        if isinstance(node, Seq):
            for part in node.parts:
                start = self._add(part, start)
            return start
        if isinstance(node, Repeat):
            return self._repeat(node, start)
        end = self._state()
        if isinstance(node, Chars):
            self.steps[start] = [(low, high, end) for low, high in node.ranges]
            return end
        for part in node.parts:
            first = self._state()
            self.free[start].append(first)
            self.free[self._add(part, first)].append(end)
        return end

    def _repeat(self, node: Repeat, start: int) -> int:
        for _ in range(node.least):
            start = self._add(node.part, start)
        end = self._state()
        if node.most is None:
            self.free[start].append(end)
            self.free[self._add_apart(node.part, end)].append(end)
            return end
        for _ in range(node.most - node.least):
            self.free[start].append(end)
            start = self._add_apart(node.part, start)
        self.free[start].append(end)
        return end

    def _add_apart(self, node: Node, start: int) -> int:
        # At a new state, since a state's characters can be set only once.
        first = self._state()
        self.free[start].append(first)
        return self._add(node, first)


Edges = list[list[tuple[int, int, int]]]


def _deterministic(nfa: _Nfa) -> tuple[Edges, list[bool]]:
    """Return the edges of each state, and whether a text may end there. State 0 is the start."""
    sets = [nfa.closure({0})]
    numbers = {sets[0]: 0}
    edges: Edges = []
    work = 0
    while len(edges) < len(sets):
        steps = [step for state in sets[len(edges)] for step in nfa.steps[state]]
        work += len(sets[len(edges)])
        if work > MAX_WORK:
            raise SchemaInvalid("its patterns need too many states; make them simpler")
        marks = sorted({mark for low, high, _ in steps for mark in (low, high + 1)})
        own_edges: list[tuple[int, int, int]] = []
        for low, after in pairwise(marks):
            targets = {target for first, last, target in steps if first <= low <= last}
            if targets:
                closure = nfa.closure(targets)
                if closure not in numbers:
                    numbers[closure] = len(sets)
                    sets.append(closure)
                own_edges.append((low, after - 1, numbers[closure]))
        edges.append(own_edges)
    return edges, [nfa.end in states for states in sets]


def _write_rules(rules: Rules, edges: Edges, accepting: list[bool]) -> str:
    order, loop_heads = _order(edges)
    names = {state: rules.reserve() for state in loop_heads}
    # The expression for what may follow a state: a text that comes first, and the rest.
    onward: dict[int, tuple[str, str]] = {state: ("", name) for state, name in names.items()}
    for state in order:
        alternatives = [_alternative(ranges, *onward[target]) for target, ranges in _by_target(edges[state])]
        if accepting[state]:
            alternatives.append(("", ""))
        expressions = [_join(*alternative) for alternative in alternatives]
        if state in names:
            rules.define(names[state], " | ".join(expressions))
        else:
            onward[state] = alternatives[0] if len(expressions) == 1 else ("", rules.add(" | ".join(expressions)))
    return _join(*onward[0])


def _order(edges: Edges) -> tuple[list[int], set[int]]:
    """Return the states, each after those that it leads to, and the states to which a later one leads back."""
    order: list[int] = []
    loop_heads: set[int] = set()
    visited, left = {0}, set()
    path = [(0, iter(edges[0]))]
    while path:
        state, rest = path[-1]
        target = next((target for _, _, target in rest), None)
        if target is None:
            order.append(state)
            left.add(state)
            path.pop()
        elif target not in visited:
            visited.add(target)
            path.append((target, iter(edges[target])))
        elif target not in left:
            loop_heads.add(target)
    return order, loop_heads


def _by_target(steps: list[tuple[int, int, int]]) -> list[tuple[int, Ranges]]:
    by_target: dict[int, Ranges] = defaultdict(list)
    for low, high, target in steps:
        ranges = by_target[target]
        if ranges and ranges[-1][1] == low - 1:
            ranges[-1] = (ranges[-1][0], high)
        else:
            ranges.append((low, high))
    return list(by_target.items())


def _alternative(ranges: Ranges, first: str, rest: str) -> tuple[str, str]:
    if len(ranges) == 1 and ranges[0][0] == ranges[0][1]:
        return chr(ranges[0][0]) + first, rest
    return "", f"{_set_of(ranges)} {_join(first, rest) if first or rest else ''}".rstrip()


def _join(first: str, rest: str) -> str:
    return f"{literal(first)} {rest}".rstrip() if first or not rest else rest


def _set_of(ranges: Ranges) -> str:
    texts = [(_in_set(low), _in_set(high)) for low, high in ranges]
    # Escapes last: in front of a hexadecimal digit, xgrammar would take the two for one escape.
    texts.sort(key=lambda ends: "\\U" in "".join(ends))
    return f"[{''.join(low if low == high else f'{low}-{high}' for low, high in texts)}]"


def _in_set(code: int) -> str:
    char = chr(code)
    if char in "]^-\\":
        return "\\" + char
    return char if char.isascii() and char.isprintable() else f"\\U{code:08x}"
