"""Whose fault a grammar's failure is, by the library in the image that serves."""

from __future__ import annotations

import pytest

from bench.quality.measuring import PreparedModel
from tests.docker.inside import run_inside

pytestmark = [pytest.mark.real_model, pytest.mark.timeout(600)]


def test_only_grammars_that_are_none_are_refused(default_model: PreparedModel) -> None:
    """The library's reason is told for each kind of mistake; a model that cannot be read is the engine's failure."""
    valid, *refusals, homeless = run_inside("tests.docker.grammar_cases", default_model)
    assert ["compiled", ""] == valid
    assert [
        ["GrammarRefused", 'Rule "nosuch" is not defined'],
        ["GrammarRefused", 'Expect " in string literal'],
        ["GrammarRefused", "lower bound is larger than upper bound"],
        ["GrammarRefused", 'The root rule with name "root" is not found'],
    ] == refusals
    assert "EngineError" == homeless[0]
    assert "absent.xml" in homeless[1]
