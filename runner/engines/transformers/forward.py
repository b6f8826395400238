"""Passes through a model: many requests at once with rows of our cache, or one at a time with the model's own cache.

The library has continuous batching, too. There, each request computes attention over all others' caches and masks them
out, so a step for many requests takes several times as long as with rows. It also samples all requests alike, without
seeds, and takes the memory of its whole cache at the start.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from typing import Any, Literal

import torch
from transformers.cache_utils import DynamicCache

from runner.engines.transformers.rows import LayerShape, RowCache

PART_TOKENS = 256
# The parameters of a model's `forward` that hold what it keeps of earlier tokens.
NAMES_OF_THE_PAST = ("past_key_values", "cache_params", "state")
# What keeps the past of a single row: the library's usual cache, an object that the model makes itself, or nothing, so
# that each new token needs a pass over all tokens.
Past = Literal["cache", "own", "none"]


class RowForward:
    """See `row_batch.Forward`: all rows in one pass, for attention over keys and values."""

    def __init__(self, model: Any, shapes: Sequence[LayerShape], *, rows: int, length: int) -> None:
        self.rows = rows
        self.part_tokens = PART_TOKENS
        self._model = model
        self._masks = Masks(model.config.get_text_config(), model.dtype)
        with torch.inference_mode():
            self._cache = RowCache(shapes, rows, length, model.dtype, model.device)

    def extend(self, row: int, parts: Sequence[Sequence[int]], start: int) -> Any:
        count, width = len(parts), max(map(len, parts))
        ends = [len(part) - 1 for part in parts]
        # Padding comes after a row's tokens: none of them sees it, and later tokens replace it.
        tokens = [[*part, *([0] * (width - len(part)))] for part in parts]
        positions_to_score = sorted(set(ends))
        self._cache.set_part(row, count, start)
        with torch.inference_mode():
            positions = torch.arange(start, start + width, device=self._model.device)
            logits = self._run(tokens, positions.expand(count, width), None, self._tensor(positions_to_score))
            return logits[range(count), [positions_to_score.index(end) for end in ends]]

    def append(self, tokens: Sequence[int], lengths: Sequence[int]) -> Any:
        with torch.inference_mode():
            ends = self._tensor(lengths)
            self._cache.set_ends(ends)
            # Rows of equal length need no mask.
            mask = None if min(lengths) == max(lengths) else self._masks.of_ends(ends)
            return self._run([[token] for token in tokens], ends[:, None], mask, 1)[:, -1]

    def move(self, source: int, target: int, length: int) -> None:
        with torch.inference_mode():
            self._cache.move(source, target, length)

    def release(self, row: int) -> None:
        self._cache.release(row)

    def _run(self, tokens: list[list[int]], positions: Any, mask: Any, logits_to_keep: Any) -> Any:
        return self._model(
            input_ids=self._tensor(tokens),
            position_ids=positions,
            attention_mask=mask,
            past_key_values=self._cache.cache,
            use_cache=True,
            logits_to_keep=logits_to_keep,
        ).logits

    def _tensor(self, values: Any) -> Any:
        return torch.tensor(values, device=self._model.device)


class Masks:
    """Tells a model which of a row's tokens the newest one sees, in the form that its configuration requires."""

    def __init__(self, config: Any, dtype: Any) -> None:
        self._dtype = dtype
        self._window = getattr(config, "sliding_window", None)
        self._kinds: tuple[str, ...] | None = None
        if hasattr(config, "layer_types"):
            self._kinds = tuple(sorted(set(config.layer_types)))

    def of_ends(self, ends: Any) -> Any:
        """Return one mask for the newest tokens at positions `ends`, or one for each kind of layer."""
        positions = torch.arange(int(ends.max()) + 1, device=ends.device)
        distance = (ends[:, None] - positions)[:, None, None]
        if self._kinds is None:
            return self._mask(distance, self._window)
        windows = {"full_attention": None, "sliding_attention": self._window}
        return {kind: self._mask(distance, windows[kind]) for kind in self._kinds}

    def _mask(self, distance: Any, window: int | None) -> Any:
        is_hidden = distance < 0
        if window is not None:
            is_hidden |= distance >= window
        return torch.zeros_like(distance, dtype=self._dtype).masked_fill_(is_hidden, torch.finfo(self._dtype).min)


class SingleForward:
    """See `row_batch.Forward`: one row, in whatever the model itself keeps of the past."""

    def __init__(self, model: Any, past: Past = "cache", *, part_tokens: int = sys.maxsize) -> None:
        self.rows = 1
        self.part_tokens = part_tokens
        self.model = model
        parameters = inspect.signature(model.forward).parameters
        self._takes_positions = "position_ids" in parameters
        self._name = next((name for name in NAMES_OF_THE_PAST if name in parameters), NAMES_OF_THE_PAST[0])
        self._kind = past
        self._past: Any = None
        self._tokens: list[int] = []

    def extend(self, row: int, parts: Sequence[Sequence[int]], start: int) -> Any:
        (tokens,) = parts
        if self._kind == "none":
            self._tokens = [*self._tokens[:start], *tokens]
            return self._run(self._tokens, 0, use_cache=False).logits[:, -1]
        if start == 0:
            self._past = DynamicCache(config=self.model.config) if self._kind == "cache" else None
        output = self._run(tokens, start, use_cache=True, **{self._name: self._past})
        # Some models change the object that they get, and some return a new one.
        self._past = getattr(output, self._name, None) or self._past
        return output.logits[:, -1]

    def append(self, tokens: Sequence[int], lengths: Sequence[int]) -> Any:
        return self.extend(0, [tokens], lengths[0])

    def move(self, source: int, target: int, length: int) -> None:
        raise AssertionError("a single row cannot be moved")

    def release(self, row: int) -> None:
        self._past, self._tokens = None, []

    def _run(self, tokens: Sequence[int], start: int, **options: Any) -> Any:
        device = self.model.device
        if self._takes_positions:
            # Left to themselves, models count from what their first layer keeps, which may be a state without a length.
            options["position_ids"] = torch.arange(start, start + len(tokens), device=device)[None]
        with torch.inference_mode():
            return self.model(input_ids=torch.tensor([list(tokens)], device=device), logits_to_keep=1, **options)

    def past_bytes(self) -> int:
        """Return the bytes of the keys and values that the model keeps of the tokens so far."""
        pairs = [(layer.keys, layer.values) for layer in getattr(self._past, "layers", ()) if hasattr(layer, "keys")]
        return sum(tensor.nbytes for pair in pairs for tensor in pair if tensor is not None)
