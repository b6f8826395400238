"""Regular texts as rules: the same texts, and one way for each."""

from __future__ import annotations

import random
import re
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from runner.grammar.automaton import Alt, Chars, Node, Repeat, Seq, regular, text
from runner.grammar.rules import Rules
from tests.runner.grammar import ebnf
from tests.runner.grammar.test_numbers import as_expression

LETTERS = st.sampled_from([Chars(((97, 97),)), Chars(((97, 98),)), Chars(((98, 99), (233, 233))), text("ab"), text("")])
COUNTS = st.sampled_from([(0, 1), (0, None), (1, None), (2, 3), (0, 0)])
NODES: st.SearchStrategy[Node] = st.recursive(
    LETTERS,
    lambda inner: st.one_of(
        st.builds(lambda parts: Seq(tuple(parts)), st.lists(inner, max_size=3)),
        st.builds(lambda parts: Alt(tuple(parts)), st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda part, counts: Repeat(part, *counts), inner, COUNTS),
    ),
    max_leaves=8,
)


def beginnings(node: Any) -> list[str]:
    """With which characters an alternative of a rule may begin, of those that the grammar names."""
    if node[0] == "text":
        return [node[1][:1]] if node[1] else []
    return list(node[1]) if node[0] == "set" else []


@settings(deadline=None)
@given(NODES, st.randoms(use_true_random=False))
def test_the_rules_make_these_texts(node: Node, chance: random.Random) -> None:
    """What the rules make is among the texts, and no two alternatives of a rule begin with the same character."""
    rules = Rules()
    grammar = ebnf.read(rules.grammar(f"{regular(rules, node)} | string").text)
    grammar.rules["string"] = ("text", "\\N")
    expression = re.compile(as_expression(node).replace("None", ""))
    for _ in range(20):
        made = grammar.sample(chance)
        assert made == "\\N" or expression.fullmatch(made), made
    for name, rule in grammar.rules.items():
        alternatives = [one[1][0] for one in rule[1]] if rule[0] == "any" and name.startswith("r") else []
        found = [char for one in alternatives for char in set(beginnings(one))]
        assert len(found) == len(set(found)), (name, rule)


def test_choices_are_a_tree() -> None:
    """However many choices begin alike, each is written once and none besides."""
    choices = ["ab", "a", "abc", "b", "a", "", "é", "éa"]
    rules = Rules()
    grammar = ebnf.read(rules.grammar(regular(rules, Alt(tuple(map(text, choices))))).text)
    assert set(choices) == {grammar.sample(random.Random(seed)) for seed in range(200)}
