"""Whose parameter counts: the request's, then the configured default, then the model's own, then a sane one."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from runner.engine import PartialSampling, Sampling

# Ollama's, which many are used to. `max_tokens` keeps a small model that rambles from holding its turn for minutes.
SANE = PartialSampling(max_tokens=512, temperature=0.8, top_p=0.9, top_k=40, stop=())


def resolve_sampling(*sources: PartialSampling) -> Sampling:
    """The parameters in force: for each, the first source that names it, and `SANE` last."""
    chosen: dict[str, Any] = {}
    for field in fields(PartialSampling):
        values = (getattr(source, field.name) for source in (*sources, SANE))
        chosen[field.name] = next((value for value in values if value is not None), None)
    return Sampling(**chosen)
