"""In the openvino image: copies the weights that the engine loads out of the prepared model, as they are.

Of each matrix the 8-bit values and the scale of each row, under the names that the conversion gave them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openvino

MODEL = Path("/prepared/weights/openvino_model.xml")
TARGET = Path("/weights")


def matrices() -> dict[str, Any]:
    """`values:NAME` and `scales:NAME` of each 8-bit constant of the graph."""
    found = {}
    model = openvino.Core().read_model(MODEL)
    for node in model.get_ops():
        if node.get_type_name() == "Constant" and node.get_element_type() == openvino.Type.i8:
            converted = _user(node, "Convert")
            name = node.get_friendly_name()
            found[f"values:{name}"] = node.data.copy()
            found[f"scales:{name}"] = _user(converted, "Multiply").input_value(1).get_node().data.copy()
    return found


def _user(node: Any, kind: str) -> Any:
    (place,) = node.output(0).get_target_inputs()
    user = place.get_node()
    assert user.get_type_name() == kind, f"{node.get_friendly_name()} goes to a {user.get_type_name()}"
    return user


if __name__ == "__main__":
    np.savez(TARGET / "matrices.npz", **matrices())
