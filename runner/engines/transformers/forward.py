"""Passes through a model: many requests at once by rows of our cache, or one at a time by the model's own.

The library has a continuous batching, too. In it each request computes attention over all others' caches, masked out,
so that a step for many takes several times as long as by rows; it samples everybody alike, without seeds; and it takes
the memory of its whole cache at the start.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import DynamicCache

from runner.engines.transformers.rows import LayerShape, RowCache

PART_TOKENS = 256
# What a model's `forward` calls what it keeps of earlier tokens.
NAMES_OF_THE_PAST = ("past_key_values", "cache_params", "state")


class RowForward:
    """See `runner.engines.row_batch.Forward`: all rows in one pass, for attention over keys and values."""

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
        # What fills a short row up comes after its tokens: none of them sees it, and later ones replace it.
        tokens = [[*part, *([0] * (width - len(part)))] for part in parts]
        wanted = sorted(set(ends))
        self._cache.set_part(row, count, start)
        with torch.inference_mode():
            positions = torch.arange(start, start + width, device=self._model.device)
            logits = self._run(tokens, positions.expand(count, width), None, self._tensor(wanted))
            return logits[range(count), [wanted.index(end) for end in ends]]

    def append(self, tokens: Sequence[int], lengths: Sequence[int]) -> Any:
        with torch.inference_mode():
            ends = self._tensor(lengths)
            self._cache.set_ends(ends)
            # Rows of one length need no mask.
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
    """Which of a row's tokens its newest one sees, in the form that a model of this configuration takes."""

    def __init__(self, config: Any, dtype: Any) -> None:
        self._dtype = dtype
        self._window = getattr(config, "sliding_window", None)
        self._kinds: tuple[str, ...] | None = None
        if hasattr(config, "layer_types"):
            self._kinds = tuple(sorted(set(config.layer_types)))

    def of_ends(self, ends: Any) -> Any:
        """For the newest tokens at positions `ends`: one mask, or one for each kind of layer."""
        seen = torch.arange(int(ends.max()) + 1, device=ends.device)
        distance = (ends[:, None] - seen)[:, None, None]
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
    """See `runner.engines.row_batch.Forward`: one row, in whatever the model itself keeps of the past."""

    def __init__(self, model: Any) -> None:
        self.rows = 1
        self._model = model
        parameters = inspect.signature(model.forward).parameters
        self._name = next((name for name in NAMES_OF_THE_PAST if name in parameters), NAMES_OF_THE_PAST[0])
        # Models that keep a state alone go on from it by single tokens.
        self.part_tokens = PART_TOKENS if self._name == NAMES_OF_THE_PAST[0] else sys.maxsize
        self._past: Any = None

    def extend(self, row: int, parts: Sequence[Sequence[int]], start: int) -> Any:
        (tokens,) = parts
        if start == 0 and self._name != "state":
            self._past = DynamicCache(config=self._model.config)
        with torch.inference_mode():
            output = self._model(
                input_ids=torch.tensor([list(tokens)], device=self._model.device),
                use_cache=True,
                logits_to_keep=1,
                **{self._name: self._past},
            )
        # Some change what they are given, and some give back a new one.
        self._past = getattr(output, self._name, None) or self._past
        return output.logits[:, -1]

    def append(self, tokens: Sequence[int], lengths: Sequence[int]) -> Any:
        return self.extend(0, [tokens], lengths[0])

    def move(self, source: int, target: int, length: int) -> None:
        raise AssertionError("a single row has nowhere to go")

    def release(self, row: int) -> None:
        self._past = None

    def past_bytes(self) -> int:
        """What the model keeps of the tokens so far, as far as it is keys and values."""
        kept = [(layer.keys, layer.values) for layer in getattr(self._past, "layers", ()) if hasattr(layer, "keys")]
        return sum(one.nbytes for pair in kept for one in pair if one is not None)
