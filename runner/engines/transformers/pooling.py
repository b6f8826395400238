"""Turns the states of a text's tokens into one vector, in torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from runner.engine import EngineError
from runner.engines.transformers.sentence_recipe import Dense, Recipe

# A sum below this has no terms.
LEAST = 1e-9


class Pooling:
    """Computes one vector for each text from the states of its tokens, in float32, as the model's recipe says."""

    def __init__(self, recipe: Recipe, folder: Path, device: Any) -> None:
        self._modes = [_MODES[mode] for mode in recipe.modes]
        self._layers = [_layer(folder, dense, device) for dense in recipe.dense]
        self._normalize = recipe.normalize

    def __call__(self, states: Any, mask: Any) -> Any:
        """Return a row for each text of `states` (texts x tokens x width); the mask is 1 for tokens, 0 for padding."""
        states, mask = states.float(), mask.unsqueeze(-1).float()
        vectors = torch.cat([mode(states, mask) for mode in self._modes], dim=-1)
        for layer in self._layers:
            vectors = layer(vectors)
        return torch.nn.functional.normalize(vectors, dim=-1) if self._normalize else vectors


def _cls(states: Any, _mask: Any) -> Any:
    return states[:, 0]


def _last(states: Any, mask: Any) -> Any:
    last = mask.sum(dim=1).long() - 1
    return states[torch.arange(len(states), device=states.device), last[:, 0]]


def _max(states: Any, mask: Any) -> Any:
    return states.masked_fill(mask == 0, float("-inf")).max(dim=1).values


def _mean(states: Any, mask: Any) -> Any:
    return (states * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=LEAST)


def _mean_of_root(states: Any, mask: Any) -> Any:
    return (states * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=LEAST).sqrt()


def _weighted_mean(states: Any, mask: Any) -> Any:
    """Weight each token by its position."""
    return _mean(states, mask * torch.arange(1, states.shape[1] + 1, device=states.device)[None, :, None])


_MODES: dict[str, Callable[[Any, Any], Any]] = {
    "cls": _cls,
    "lasttoken": _last,
    "max": _max,
    "mean": _mean,
    "mean_sqrt_len_tokens": _mean_of_root,
    "weightedmean": _weighted_mean,
}


def _layer(folder: Path, dense: Dense, device: Any) -> Any:
    from safetensors.torch import load_file

    path = folder / dense.folder / "model.safetensors"
    if not path.is_file():
        raise EngineError(f"{dense.folder} has no model.safetensors; choose a source that has it")
    weights = load_file(path)
    weight, bias = weights["linear.weight"], weights.get("linear.bias")
    linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    linear.weight.data = weight.float()
    if bias is not None:
        linear.bias.data = bias.float()
    return torch.nn.Sequential(linear, getattr(torch.nn, dense.activation)()).to(device)
