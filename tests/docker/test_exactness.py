"""Right, not only fast: the openvino engine's answers compared with `model.generate` on the same weights."""

from __future__ import annotations

import pytest

from bench.quality.measuring import Comparison, PreparedModel, compare
from tests.prompts import TWENTY_PROMPTS

pytestmark = [pytest.mark.real_model, pytest.mark.long, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def comparison(default_model: PreparedModel) -> Comparison:
    return compare(default_model, TWENTY_PROMPTS)


def test_texts_become_the_same_tokens(comparison: Comparison) -> None:
    """The converted tokenizer and chat template give the source's own tokens, in every language and with emoji."""
    assert comparison.same_text_tokens
    assert comparison.engine.same_prompts == len(TWENTY_PROMPTS)


def test_the_engine_answers_as_the_reference(comparison: Comparison) -> None:
    """The engine generates the reference's tokens, one request at a time and all in one batch."""
    assert comparison.engine.alone >= 18
    assert comparison.engine.together >= 18


def test_the_text_is_as_likely_as_to_the_source(comparison: Comparison) -> None:
    """The engine's perplexity is within 2 % of the dequantised source's in float32."""
    assert comparison.engine.perplexity == pytest.approx(1, abs=0.02)


def test_the_weights_are_the_sources(comparison: Comparison) -> None:
    """A Q4_1 file's weights are kept unchanged, and the engine computes with exactly these."""
    assert comparison.engine_weights == pytest.approx(1, rel=1e-6)
    assert comparison.engine.perplexity == pytest.approx(comparison.engine_weights, rel=1e-3)
