"""The KV cache of a batch: a row for each request, which takes memory only for the tokens written to it."""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

# Python names it from 3.13 on; Linux uses the same value on every processor.
MAP_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)


@dataclass(frozen=True)
class LayerShape:
    """The keys and the values of one token in one layer, each as (heads, size)."""

    keys: tuple[int, int]
    values: tuple[int, int]


class RowCache:
    """Rows of keys and values for all layers, each as long as the context; the model uses them through `cache`.

    Before a forward pass, `set_part` or `set_ends` says where its tokens go. Not thread-safe.
    """

    def __init__(self, shapes: Sequence[LayerShape], rows: int, length: int, dtype: Any, device: Any) -> None:
        self._place = _Place()
        self._layers = [_RowLayer(self._place, shape, rows, length, dtype, device) for shape in shapes]
        self.cache = Cache(layers=list(self._layers))

    def set_part(self, row: int, count: int, start: int) -> None:
        """Let the next pass append a part of a prompt to each of `count` rows, which hold `start` tokens."""
        self._place.is_part = True
        self._place.rows = slice(row, row + count)
        self._place.past = start

    def set_ends(self, lengths: Any) -> None:
        """Let the next pass append one token to each of the first rows, which hold `lengths` tokens (a tensor)."""
        self._place.is_part = False
        self._place.rows = slice(0, len(lengths))
        self._place.past = int(lengths.max())
        self._place.lengths = lengths
        self._place.numbers = torch.arange(len(lengths), device=lengths.device)

    def move(self, source: int, target: int, length: int) -> None:
        """Move the `length` tokens of the source row to the target row, and empty the source."""
        self.release(target)
        for layer in self._layers:
            layer.copy(source, target, length)
        self.release(source)

    def release(self, row: int) -> None:
        """Empty the row, and return its memory to the system."""
        for layer in self._layers:
            layer.release(row)


class _Place:
    """Where the current pass's tokens go; all layers share it."""

    is_part = True
    rows = slice(0, 0)
    past = 0
    lengths: Any = None
    numbers: Any = None


class _RowLayer(CacheLayerMixin):  # type: ignore[misc]
    def __init__(self, place: _Place, shape: LayerShape, rows: int, length: int, dtype: Any, device: Any) -> None:
        super().__init__()
        self._place = place
        self._stores = [_Store(rows, *one, length, dtype, device) for one in (shape.keys, shape.values)]
        self.keys, self.values = (store.tensor for store in self._stores)
        self.is_initialized = True

    def lazy_initialization(self, key_states: Any, value_states: Any) -> None:
        return None

    def update(self, key_states: Any, value_states: Any, *_args: Any, **_kwargs: Any) -> tuple[Any, Any]:
        place = self._place
        if not place.is_part:
            end = place.past + 1
            for store, new in ((self.keys, key_states), (self.values, value_states)):
                store[place.numbers, :, place.lengths] = new[:, :, 0]
        else:
            end = place.past + key_states.shape[2]
            for store, new in ((self.keys, key_states), (self.values, value_states)):
                store[place.rows, :, place.past : end] = new
            if place.past == 0:
                return key_states, value_states
        return self.keys[place.rows, :, :end], self.values[place.rows, :, :end]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._place.past + query_length, 0

    def get_seq_length(self) -> int:
        return self._place.past

    def get_max_length(self) -> int:
        return -1

    def copy(self, source: int, target: int, length: int) -> None:
        for store in (self.keys, self.values):
            store[target, :, :length] = store[source, :, :length]

    def release(self, row: int) -> None:
        for store in self._stores:
            store.release(row)


class _Store:
    """The keys or the values of one layer. On a CPU, a row takes no memory until something is written to it."""

    def __init__(self, rows: int, heads: int, size: int, length: int, dtype: Any, device: Any) -> None:
        self._map: mmap.mmap | None = None
        if device.type != "cpu":
            self.tensor = torch.empty((rows, heads, length, size), dtype=dtype, device=device)
            return
        # Rows begin at the start of a page, whatever the size of a token.
        length = -(-length // mmap.PAGESIZE) * mmap.PAGESIZE
        self._row_bytes = heads * length * size * dtype.itemsize
        # Most of it stays unused: reserved addresses cost nothing, but with huge pages a single token takes megabytes.
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
        self._map = mmap.mmap(-1, rows * self._row_bytes, flags=flags)
        with contextlib.suppress(OSError):
            self._map.madvise(mmap.MADV_NOHUGEPAGE)
        self.tensor = torch.frombuffer(self._map, dtype=dtype).view(rows, heads, length, size)

    def release(self, row: int) -> None:
        if self._map is not None:
            self._map.madvise(mmap.MADV_DONTNEED, row * self._row_bytes, self._row_bytes)
