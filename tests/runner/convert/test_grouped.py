"""Matrices in groups: reading GGUF's types, rounding other types, and the order of the bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from runner.convert.grouped import Grouped, from_q4_0, from_q4_1, from_q8_0, join, round_to_groups


def floats(matrix: Grouped) -> Any:
    scales, offsets = (np.repeat(part.astype(np.float32), 32, axis=1) for part in (matrix.scales, matrix.offsets))
    return matrix.codes * scales + offsets


def half(value: float) -> bytes:
    return np.float16(value).tobytes()


def rows_of(*rows: bytes) -> Any:
    return np.array([list(row) for row in rows], dtype=np.uint8)


def test_ggufs_types_lose_nothing() -> None:
    """A block's weights are those that GGUF defines: first the low halves of the bytes, then the high ones."""
    nibbles = bytes(15 - i | i << 4 for i in range(16))
    codes = [*range(15, -1, -1), *range(16)]
    matrix = from_q4_1(rows_of(half(0.5) + half(-3) + nibbles))
    assert floats(matrix).tolist() == [[0.5 * code - 3 for code in codes]]
    matrix = from_q4_0(rows_of(half(0.25) + nibbles, half(0) + nibbles))
    assert floats(matrix).tolist() == [[0.25 * (code - 8) for code in codes], [0.0] * 32]
    signed = [*range(-128, -112), *range(112, 128)]
    matrix = from_q8_0(rows_of((half(2) + np.array(signed, dtype=np.int8).tobytes()) * 2))
    assert floats(matrix).tolist() == [[2.0 * code for code in signed] * 2]


@given(st.integers(1, 4), st.integers(1, 3), st.integers(0, 2**32 - 1), st.floats(1e-3, 1e4))
def test_rounding_is_within_half_a_step(rows: int, groups: int, seed: int, magnitude: float) -> None:
    """The error is at most half of a group's scale, and the scale is no larger than 1/127 of the largest weight."""
    weight = (np.random.default_rng(seed).standard_normal((rows, groups * 32)) * magnitude).astype(np.float32)
    matrix = round_to_groups(weight)
    scales = matrix.scales.astype(np.float32)
    assert np.all(np.abs(floats(matrix) - weight) <= np.repeat(scales, 32, axis=1) * 0.501)
    # Allows for the rounding of float16: relative, and absolute for its smallest numbers.
    largest = np.abs(weight).reshape(rows, groups, 32).max(axis=2)
    assert np.all(scales * 127 <= largest * 1.002 + 127 * 2.0**-24)


def test_zeros_stay_zero() -> None:
    """There is no division by a scale of zero."""
    assert not floats(round_to_groups(np.zeros((2, 64), dtype=np.float32))).any()


def test_joined_matrices_have_the_wider_codes() -> None:
    """Rows of 4 and of 8 bits are joined for one product without a change to the weights."""
    narrow = from_q4_0(rows_of(half(1) + bytes(range(16))))
    wide = round_to_groups(np.linspace(-1, 1, 32, dtype=np.float32)[None])
    matrix = join([narrow, wide])
    assert matrix.bits == 8
    assert np.array_equal(floats(matrix), np.concatenate([floats(narrow), floats(wide)]))


@given(st.integers(1, 40), st.integers(1, 3), st.sampled_from([4, 8]), st.integers(0, 2**32 - 1))
def test_every_weight_is_where_the_kernels_read_it(rows: int, groups: int, bits: int, seed: int) -> None:
    """The place of each code, scale and offset is that of `grouped_matmul.hpp`."""
    random = np.random.default_rng(seed)
    codes = random.integers(0, 2**bits, (rows, groups * 32), dtype=np.uint8)
    halves = [random.random((rows, groups)).astype(np.float16) for _ in range(2)]
    data = Grouped(codes=codes, scales=halves[0], offsets=halves[1], bits=bits).pack()
    size = bits * 64 + 64
    assert len(data) == -(-rows // 16) * groups * size
    row, column = int(random.integers(rows)), int(random.integers(groups * 32))
    begin = (row // 16 * groups + column // 32) * size
    four, place = column % 32 // 4, row % 16 * 4 + column % 4
    narrow = data[begin + four // 2 * 64 + place] >> (four % 2 * 4) & 15
    assert codes[row, column] == (narrow if bits == 4 else data[begin + four * 64 + place])
    for i, half_values in enumerate(halves):
        at = begin + bits * 64 + i * 32 + row % 16 * 2
        assert data[at : at + 2].view(np.float16)[0] == half_values[row, column // 32]
