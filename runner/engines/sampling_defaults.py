"""Completes a request: bounds its tokens by the context, and chooses among the sources of each parameter."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from runner.engine import EncodedRequest, PartialSampling, PromptInvalid, Sampling

# Ollama's defaults, which many users know. `max_tokens` keeps a rambling small model from generating for minutes.
DEFAULTS = PartialSampling(max_tokens=512, temperature=0.8, top_p=0.9, top_k=40, stop=())


def encode_request(tokens: tuple[int, ...], context_length: int, *sources: PartialSampling) -> EncodedRequest:
    """Return the request with as many new tokens as the context has room for. Raises PromptInvalid if it has none.

    `sources` come in order of precedence: the request's parameters, the configured ones, the model's own.
    """
    if not tokens:
        raise PromptInvalid("The prompt has no tokens; write some text.")
    room = context_length - len(tokens)
    if room < 1:
        raise PromptInvalid(
            f"The prompt has {len(tokens)} tokens, but the context is {context_length}; "
            "shorten the prompt so that at least one token fits after it.",
            code="context_length_exceeded",
        )
    sampling = resolve_sampling(*sources)
    return EncodedRequest(prompt_tokens=tokens, sampling=replace(sampling, max_tokens=min(sampling.max_tokens, room)))


def resolve_sampling(*sources: PartialSampling) -> Sampling:
    """Return each parameter from the first source that sets it; `DEFAULTS` is the last source."""
    parameters: dict[str, Any] = {}
    for field in fields(PartialSampling):
        values = (getattr(source, field.name) for source in (*sources, DEFAULTS))
        parameters[field.name] = next((value for value in values if value is not None), None)
    return Sampling(**parameters)
