"""Who is at fault if a grammar fails, as the library in the serving image tells."""

from __future__ import annotations

import pytest

from bench.quality.measuring import PreparedModel
from tests.docker.inside import run_inside

pytestmark = [pytest.mark.real_model, pytest.mark.timeout(600)]


def test_only_invalid_grammars_are_refused(default_model: PreparedModel) -> None:
    """The library's reason is passed on for each kind of mistake; an unreadable model is the engine's failure."""
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
