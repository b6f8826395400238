"""Matrices as 4- or 8-bit codes in groups of 32 columns, the format that `runner/kernels` multiplies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from runner.convert.weights import Array

GROUP = 32
BLOCK_ROWS = 16


@dataclass(frozen=True, kw_only=True)
class Grouped:
    """The weights are codes (uint8, [rows, columns]) x scales + offsets (float16, [rows, columns / 32])."""

    codes: Array
    scales: Array
    offsets: Array
    bits: int

    @property
    def rows(self) -> int:
        return int(self.codes.shape[0])

    @property
    def columns(self) -> int:
        return int(self.codes.shape[1])

    def floats(self) -> Array:
        """Return the weights, float32 [rows, columns]."""
        scales, offsets = (np.repeat(part.astype(np.float32), GROUP, axis=1) for part in (self.scales, self.offsets))
        return self.codes * scales + offsets

    def pack(self) -> Array:
        """Return the bytes that the kernels read, in the order that `runner/kernels/grouped_matmul.hpp` defines."""
        blocks, groups = -(-self.rows // BLOCK_ROWS), self.columns // GROUP
        padding = ((0, blocks * BLOCK_ROWS - self.rows), (0, 0))
        codes = np.pad(self.codes, padding).reshape(blocks, BLOCK_ROWS, groups, 8, 4).transpose(0, 2, 3, 1, 4)
        if self.bits == 4:
            codes = codes[:, :, 0::2] | codes[:, :, 1::2] << 4
        halves = np.stack([np.pad(self.scales, padding), np.pad(self.offsets, padding)])
        halves = halves.reshape(2, blocks, BLOCK_ROWS, groups).transpose(1, 3, 0, 2)
        halves = np.ascontiguousarray(halves).view(np.uint8).reshape(blocks, groups, -1)
        return np.concatenate([codes.reshape(blocks, groups, -1), halves], axis=2).reshape(-1)


def join(parts: Sequence[Grouped]) -> Grouped:
    """Stack matrices below each other; with 8 bits unless 4 are enough for all."""
    return Grouped(
        codes=np.concatenate([part.codes for part in parts]),
        scales=np.concatenate([part.scales for part in parts]),
        offsets=np.concatenate([part.offsets for part in parts]),
        bits=max(part.bits for part in parts),
    )


def round_to_groups(weight: Array) -> Grouped:
    """Round a float matrix to 8 bits, with an error of at most half of 1/127 of the group's largest weight."""
    groups = weight.astype(np.float32).reshape(weight.shape[0], -1, GROUP)
    largest = np.abs(groups).max(axis=2)
    scales = (largest / np.float32(127)).astype(np.float16)
    # Rounded down, a scale would not reach the largest weight.
    scales = np.where(scales.astype(np.float32) * 127 < largest, np.nextafter(scales, np.float16(np.inf)), scales)
    steps = np.where(scales > 0, scales, 1).astype(np.float32)[..., None]
    codes = (np.rint(groups / steps) + 128).astype(np.uint8).reshape(weight.shape)
    return Grouped(codes=codes, scales=scales, offsets=scales * np.float16(-128), bits=8)


def from_q4_0(data: Array) -> Grouped:
    """Read Q4_0, uint8 [rows, bytes]: for 32 weights a float16 scale, then 16 bytes; weight = scale x (code - 8)."""
    blocks = _blocks(data, 18)
    scales = _halves(blocks, 0)
    return Grouped(codes=_nibbles(blocks[..., 2:]), scales=scales, offsets=scales * np.float16(-8), bits=4)


def from_q4_1(data: Array) -> Grouped:
    """Read Q4_1: for 32 weights a scale, a smallest value, then 16 bytes; weight = scale x code + smallest."""
    blocks = _blocks(data, 20)
    return Grouped(codes=_nibbles(blocks[..., 4:]), scales=_halves(blocks, 0), offsets=_halves(blocks, 2), bits=4)


def from_q8_0(data: Array) -> Grouped:
    """Read Q8_0: for 32 weights a scale, then 32 signed bytes."""
    blocks = _blocks(data, 34)
    scales = _halves(blocks, 0)
    codes = (blocks[..., 2:].view(np.int8).astype(np.int16) + 128).astype(np.uint8)
    return Grouped(codes=codes.reshape(codes.shape[0], -1), scales=scales, offsets=scales * np.float16(-128), bits=8)


def _blocks(data: Array, size: int) -> Array:
    return np.ascontiguousarray(data).view(np.uint8).reshape(data.shape[0], -1, size)


def _halves(blocks: Array, at: int) -> Array:
    return np.ascontiguousarray(blocks[..., at : at + 2]).view(np.float16)[..., 0]


def _nibbles(blocks: Array) -> Array:
    """Return 32 codes from 16 bytes: first the low halves of the bytes, then the high ones."""
    codes = np.concatenate([blocks & 15, blocks >> 4], axis=-1)
    return codes.reshape(codes.shape[0], -1)
