"""What a request comes to: its tokens within the context, and whose parameters count."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from runner.engine import EncodedRequest, PartialSampling, PromptInvalid, Sampling

# Ollama's, which many are used to. `max_tokens` keeps a small model that rambles from holding its turn for minutes.
SANE = PartialSampling(max_tokens=512, temperature=0.8, top_p=0.9, top_k=40, stop=())


def encoded_request(tokens: tuple[int, ...], context_length: int, *sources: PartialSampling) -> EncodedRequest:
    """The request with as many new tokens as the context has room for. Raises PromptInvalid when there is none.

    `sources` in the order in which they count: the request's parameters, the configured ones, the model's own.
    """
    if not tokens:
        raise PromptInvalid("The prompt has no tokens; write some text.")
    room = context_length - len(tokens)
    if room < 1:
        raise PromptInvalid(
            f"The prompt has {len(tokens)} tokens and the context {context_length}; "
            "shorten the prompt so that at least one token fits after it.",
            code="context_length_exceeded",
        )
    sampling = resolve_sampling(*sources)
    return EncodedRequest(prompt_tokens=tokens, sampling=replace(sampling, max_tokens=min(sampling.max_tokens, room)))


def resolve_sampling(*sources: PartialSampling) -> Sampling:
    """The parameters in force: for each, the first source that names it, and `SANE` last."""
    chosen: dict[str, Any] = {}
    for field in fields(PartialSampling):
        values = (getattr(source, field.name) for source in (*sources, SANE))
        chosen[field.name] = next((value for value in values if value is not None), None)
    return Sampling(**chosen)
