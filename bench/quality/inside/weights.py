"""In the openvino image: copies the weights that the engine loads out of the prepared model, unchanged.

Each matrix in float32, under the name that the conversion gave it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openvino

from runner.kernels import LIBRARY

MODEL = Path("/prepared/weights/openvino_model.xml")
TARGET = Path("/weights")


def matrices() -> dict[str, Any]:
    """Read the matrices of the graph's products, in the layout of `runner/kernels/grouped_matmul.hpp`."""
    core = openvino.Core()
    core.add_extension(LIBRARY)
    by_name = {}
    for node in core.read_model(MODEL).get_ops():
        if node.get_type_name() == "GroupedMatMul":
            constant = node.input_value(1).get_node()
            attributes = node.get_attributes()
            by_name[constant.get_friendly_name()] = unpack(
                constant.data, int(attributes["rows"]), int(attributes["bits"])
            )
    return by_name


def unpack(data: Any, rows: int, bits: int) -> Any:
    """Return [rows, columns] in float32 from the bytes of a packed matrix."""
    group_bytes = bits * 64 + 64
    groups = data.reshape(-(-rows // 16), -1, group_bytes)
    codes, halves = groups[..., : bits * 64], np.ascontiguousarray(groups[..., bits * 64 :]).view(np.float16)
    if bits == 4:
        pairs = codes.reshape(*codes.shape[:2], 4, 64)
        codes = np.stack([pairs & 15, pairs >> 4], axis=3)
    # [block, group, four, row, column] → [block, row, group, four, column]
    values = codes.reshape(*groups.shape[:2], 8, 16, 4).transpose(0, 3, 1, 2, 4).astype(np.float32)
    scales, offsets = (part.transpose(0, 2, 1)[..., None, None] for part in (halves[..., :16], halves[..., 16:]))
    weights = values * scales.astype(np.float32) + offsets.astype(np.float32)
    return weights.reshape(weights.shape[0] * 16, -1)[:rows]


if __name__ == "__main__":
    np.savez(TARGET / "matrices.npz", **matrices())
