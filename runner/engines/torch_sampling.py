"""Chooses the next token from a model's logits."""

from __future__ import annotations

from typing import Any

import torch

from runner.engine import Sampling

# Below this a division would overflow, and the choice is the greedy one anyway.
MIN_TEMPERATURE = 1e-4


class Sampler:
    """One generation's choices: the same seed and logits give the same tokens."""

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        self._random = torch.Generator()
        if sampling.seed is None:
            self._random.seed()
        else:
            self._random.manual_seed(sampling.seed)

    def choose(self, logits: Any) -> int:
        """A token, given its vocabulary's logits (one dimension)."""
        if self._sampling.temperature < MIN_TEMPERATURE:
            return int(logits.argmax())
        with torch.inference_mode():
            scores, tokens = self._candidates(logits.float().cpu())
            probabilities = torch.softmax(scores / self._sampling.temperature, dim=-1)
            if self._sampling.top_p < 1:
                # Kept while what precedes a token holds less than top_p; so the likeliest one always stays.
                preceding = probabilities.cumsum(dim=-1) - probabilities
                probabilities = probabilities.masked_fill(preceding >= self._sampling.top_p, 0.0)
            index = int(torch.multinomial(probabilities, 1, generator=self._random))
        return int(tokens[index])

    def _candidates(self, logits: Any) -> tuple[Any, Any]:
        """Scores and tokens, the likeliest first, as many as top_k allows."""
        vocabulary = logits.shape[-1]
        count = min(self._sampling.top_k or vocabulary, vocabulary)
        scores, tokens = torch.topk(logits, count, sorted=True)
        return scores - scores[0], tokens
