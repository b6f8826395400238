"""Regular texts as rules: they allow the same texts, with one derivation for each."""

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
    """Return the characters with which an alternative of a rule may begin, as far as the grammar names them."""
    if node[0] == "text":
        return [node[1][:1]] if node[1] else []
    return list(node[1]) if node[0] == "set" else []


@settings(deadline=None)
@given(NODES, st.randoms(use_true_random=False))
def test_the_rules_generate_these_texts(node: Node, chance: random.Random) -> None:
    """The rules generate only these texts, and no two alternatives of a rule begin with the same character."""
    rules = Rules()
    grammar = ebnf.read(rules.grammar(f"{regular(rules, node)} | string").text)
    grammar.rules["string"] = ("text", "\\N")
    expression = re.compile(as_expression(node).replace("None", ""))
    for _ in range(20):
        sample = grammar.sample(chance)
        assert sample == "\\N" or expression.fullmatch(sample), sample
    for name, rule in grammar.rules.items():
        alternatives = [one[1][0] for one in rule[1]] if rule[0] == "any" and name.startswith("r") else []
        chars = [char for one in alternatives for char in set(beginnings(one))]
        assert len(chars) == len(set(chars)), (name, rule)


def test_choices_form_a_tree() -> None:
    """However many choices begin alike, the grammar allows each of them and nothing else."""
    choices = ["ab", "a", "abc", "b", "a", "", "é", "éa"]
    rules = Rules()
    grammar = ebnf.read(rules.grammar(regular(rules, Alt(tuple(map(text, choices))))).text)
    assert set(choices) == {grammar.sample(random.Random(seed)) for seed in range(200)}
