"""The logits of a loaded model for a few tokens, without a cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def plain_logits(model: Any, tokens: Sequence[int], positions: Sequence[int]) -> Any:
    """Return float32 [tokens, vocabulary]; a token sees itself and those before it."""
    import torch

    inputs = {
        "input_ids": torch.tensor([[*tokens]]),
        "position_ids": torch.tensor([[*positions]]),
        # Without a mask, gaps between positions would mean several texts in a row.
        "attention_mask": torch.ones((1, len(tokens)), dtype=torch.long),
    }
    with torch.inference_mode():
        return model(**inputs, use_cache=False).logits[0].float().numpy()
