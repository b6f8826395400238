"""The order of weights' rows."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from runner.convert.weights import halves_from_pairs


@given(st.integers(1, 4), st.integers(1, 5))
def test_rows_of_pairs_become_halves(heads: int, half: int) -> None:
    """Row 2i of a head becomes its row i, and row 2i + 1 its row half + i; heads keep their order."""
    rows = np.arange(heads * half * 2).reshape(-1, 1)
    halves = halves_from_pairs(rows, heads)
    for head in range(heads):
        start = head * half * 2
        for i in range(half):
            assert halves[start + i] == start + 2 * i
            assert halves[start + half + i] == start + 2 * i + 1
