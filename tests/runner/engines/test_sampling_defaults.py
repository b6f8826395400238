"""Requests in tokens: bounded by the context, with each parameter from the first source that sets it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.engine import PartialSampling, PromptInvalid, Sampling
from runner.engines.sampling_defaults import DEFAULTS, encode_request, resolve_sampling


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 100))
def test_prompt_and_answer_fit_the_context(prompt: int, context: int, max_tokens: int) -> None:
    """A request never exceeds the context, and a prompt without room for one token is refused with both lengths."""
    tokens = tuple(range(prompt))
    sampling = PartialSampling(max_tokens=max_tokens)
    if prompt >= context:
        with pytest.raises(PromptInvalid, match=f"{prompt} tokens, but the context is {context}") as excinfo:
            encode_request(tokens, context, sampling)
        assert excinfo.value.code == "context_length_exceeded"
    else:
        request = encode_request(tokens, context, sampling)
        assert request.sampling.max_tokens == min(max_tokens, context - prompt)


def test_a_prompt_without_tokens_is_refused() -> None:
    """A text without a token is not a prompt."""
    with pytest.raises(PromptInvalid, match="no tokens"):
        encode_request((), 10, PartialSampling())


def test_the_first_source_counts() -> None:
    """A request's parameter comes before the configured one, that before the model's, and the default comes last."""
    sampling = resolve_sampling(
        PartialSampling(temperature=0.0), PartialSampling(temperature=1.0, top_k=7), PartialSampling(top_k=9, seed=3)
    )
    assert (sampling.temperature, sampling.top_k, sampling.seed, sampling.top_p) == (0.0, 7, 3, DEFAULTS.top_p)


def test_zero_and_empty_are_values_but_none_is_not() -> None:
    """The request's comes first, then the configuration's, the model's, and ours; 0 and () are values, None is not."""
    request = PartialSampling(temperature=0.0, stop=())
    configured = PartialSampling(temperature=0.9, max_tokens=7, stop=("x",))
    model = PartialSampling(max_tokens=8, top_p=0.5)
    expected = Sampling(max_tokens=7, temperature=0.0, top_p=0.5, top_k=40, stop=(), seed=None)
    assert expected == resolve_sampling(request, configured, model)
