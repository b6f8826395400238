"""Numbers between bounds: all that lie within, and no others."""

from __future__ import annotations

import random
import re
from decimal import Decimal

from hypothesis import given, settings
from hypothesis import strategies as st

from runner.grammar.automaton import Chars, Node, Repeat, Seq, regular
from runner.grammar.numbers import decimals, integers
from runner.grammar.rules import Rules
from tests.runner.grammar import ebnf

INTEGERS = st.none() | st.integers(-1500, 1500)
DECIMALS = st.none() | st.decimals(-150, 150, places=3)


def as_expression(node: Node) -> str:
    """Return the node as a regular expression."""
    if isinstance(node, Chars):
        return f"[{''.join(f'{re.escape(chr(low))}-{re.escape(chr(high))}' for low, high in node.ranges)}]"
    if isinstance(node, Repeat):
        return f"(?:{as_expression(node.part)}){{{node.least},{node.most}}}"
    sign = "" if isinstance(node, Seq) else "|"
    return f"(?:{sign.join(map(as_expression, node.parts))})"


@settings(deadline=None)
@given(INTEGERS, INTEGERS)
def test_integers_are_exactly_those_within(low: int | None, high: int | None) -> None:
    """The grammar allows every integer from low to high, and no other."""
    if low is None and high is None:
        return
    node = integers(low, high)
    expression = re.compile(as_expression(node))
    matches = [number for number in range(-2000, 2001) if node.parts and expression.fullmatch(str(number))]
    assert list(range(-2000 if low is None else low, 2001 if high is None else high + 1)) == matches


@settings(deadline=None)
@given(DECIMALS, DECIMALS, st.booleans(), st.booleans(), st.randoms(use_true_random=False))
def test_decimals_lie_within(
    low: Decimal | None, high: Decimal | None, is_above: bool, is_below: bool, chance: random.Random
) -> None:
    """Every allowed number lies within the bounds, or strictly within, even when it is read as a float."""
    if low is None and high is None:
        return
    node = decimals(low, high, is_above=is_above, is_below=is_below)
    if not node.parts:
        return
    rules = Rules()
    grammar = ebnf.read(rules.grammar(regular(rules, node)).text)
    for _ in range(20):
        number = float(grammar.sample(chance))
        assert low is None or (number > float(low) if is_above else number >= float(low))
        assert high is None or (number < float(high) if is_below else number <= float(high))


@settings(deadline=None)
@given(DECIMALS, DECIMALS, st.decimals(-150, 150, places=2))
def test_decimals_are_all_those_within(low: Decimal | None, high: Decimal | None, number: Decimal) -> None:
    """The grammar allows any number of few digits that lies within the bounds."""
    if low is None and high is None:
        return
    is_within = (low is None or low <= number) and (high is None or number <= high)
    node = decimals(low, high)
    for text in {str(number), f"{number:f}00"} if node.parts else ():
        is_allowed = bool(re.fullmatch(as_expression(node), text))
        assert is_allowed == is_within or (text.startswith("-0") and not float(text)), text
    assert node.parts or not is_within
