"""Rearranges weights on their way from one file to another."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = np.ndarray[Any, Any]


def halves_from_pairs(rows: Array, heads: int) -> Any:
    """Reorder rows from pairs (0, 1), (2, 3) … within each head to all first members, then all second ones."""
    pairs = rows.reshape(heads, rows.shape[0] // heads // 2, 2, *rows.shape[1:])
    return pairs.swapaxes(1, 2).reshape(rows.shape)
