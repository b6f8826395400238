"""Chooses the next token from a model's logits."""

from __future__ import annotations

from typing import Any

import torch

from runner.engine import Sampling

# Below this, a division would overflow, and the choice is the greedy one anyway.
MIN_TEMPERATURE = 1e-4
FEW = 512


class Sampler:
    """Chooses one generation's tokens: the same seed and logits give the same tokens."""

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        self._random = torch.Generator()
        if sampling.seed is None:
            self._random.seed()
        else:
            self._random.manual_seed(sampling.seed)

    @property
    def is_greedy(self) -> bool:
        """Whether the choice is always the likeliest token."""
        return self._sampling.temperature < MIN_TEMPERATURE

    def choose(self, logits: Any) -> int:
        """Choose a token by its vocabulary's logits (one dimension). Raises RuntimeError if one is not a number."""
        if self.is_greedy:
            return int(logits.argmax())
        with torch.inference_mode():
            probabilities, tokens = self._candidates(logits.float().cpu() / self._sampling.temperature)
            if self._sampling.top_p < 1:
                # A token stays if the ones before it sum to less than top_p; so the likeliest one always stays.
                preceding = probabilities.cumsum(dim=-1) - probabilities
                probabilities = probabilities.masked_fill(preceding >= self._sampling.top_p, 0.0)
            index = int(torch.multinomial(probabilities, 1, generator=self._random))
        return index if tokens is None else int(tokens[index])

    def _candidates(self, scores: Any) -> tuple[Any, Any]:
        """Return the probabilities that top_k allows, the likeliest first, and their tokens (None for all)."""
        if 0 < self._sampling.top_k < len(scores):
            scores, tokens = torch.topk(scores, self._sampling.top_k)
            return torch.softmax(scores, dim=-1), tokens
        probabilities = torch.softmax(scores, dim=-1)
        if self._sampling.top_p >= 1:
            return probabilities, None
        few, tokens = torch.topk(probabilities, min(FEW, len(scores)))
        # Sorting a whole vocabulary takes milliseconds, and the few likeliest usually sum to top_p.
        return (few, tokens) if float(few.sum()) >= self._sampling.top_p else torch.sort(probabilities, descending=True)
