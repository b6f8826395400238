"""Run in the openvino image: compare our operations with numpy on shapes of every kind; print the largest errors."""

from __future__ import annotations

import itertools
import json
from typing import Any

import numpy as np
import openvino
from openvino import opset13 as ops
from openvino.utils.node_factory import NodeFactory

from runner.convert.grouped import Grouped, round_to_groups
from runner.kernels import LIBRARY

EPSILON = 1e-5
KINDS = ("plain", "norm", "gated", "residual", "norm+residual", "gated+residual")
# Rows that fill blocks of 16 in pairs, alone and in part; columns of one group and of several.
ROWS, COLUMNS, TOKENS = (32, 16, 72), (32, 160), (1, 2, 3, 4, 5, 11)


def matrix(rows: int, columns: int, bits: int, random: np.random.Generator) -> Grouped:
    if bits == 8:
        return round_to_groups(random.standard_normal((rows, columns)))
    groups = (rows, columns // 32)
    return Grouped(
        codes=random.integers(0, 16, (rows, columns), dtype=np.uint8),
        scales=random.random(groups).astype(np.float16),
        offsets=random.standard_normal(groups).astype(np.float16),
        bits=4,
    )


def floats(weights: Grouped) -> Any:
    spread = (np.repeat(part.astype(np.float64), 32, axis=1) for part in (weights.scales, weights.offsets))
    scales, offsets = spread
    return weights.codes * scales + offsets


def error_of(rows: int, columns: int, bits: int, tokens: int, kind: str) -> float:
    """Return the largest difference, relative to the largest value."""
    random = np.random.default_rng(rows * columns * tokens + bits)
    weights = matrix(rows, columns, bits, random)
    width = columns * (2 if "gated" in kind else 1)
    x = (random.standard_normal((tokens, width)) * np.exp(random.standard_normal((1, width)))).astype(np.float32)
    norm = random.random(columns).astype(np.float32)
    residual: Any = random.standard_normal((tokens, rows)).astype(np.float32)
    expected: Any = x.astype(np.float64)
    if "norm" in kind:
        expected = expected / np.sqrt((expected**2).mean(axis=1, keepdims=True) + EPSILON) * norm
    if "gated" in kind:
        gate, up = expected[:, :columns], expected[:, columns:]
        expected = gate / (1 + np.exp(-gate)) * up
    expected = expected @ floats(weights).T
    inputs = [ops.parameter([-1, width], np.float32), ops.constant(weights.pack())]
    if "norm" in kind:
        inputs.append(ops.constant(norm))
    arguments: list[Any] = [x]
    if "residual" in kind:
        inputs.append(ops.parameter([-1, rows], np.float32))
        arguments.append(residual)
        expected = expected + residual
    attributes = {
        "rows": rows,
        "bits": bits,
        "epsilon": EPSILON if "norm" in kind else 0.0,
        "gated": "gated" in kind,
        "adds": "residual" in kind,
    }
    result = run("GroupedMatMul", inputs, attributes, arguments)
    return float(np.abs(result - expected).max() / np.abs(expected).max())


def error_of_rows(bits: int) -> float:
    random = np.random.default_rng(bits)
    weights = matrix(40, 64, bits, random)
    ids = random.integers(0, 40, (3, 5), dtype=np.int32)
    inputs = [ops.parameter([-1, -1], np.int32), ops.constant(weights.pack())]
    result = run("GroupedRows", inputs, {"rows": 40, "columns": 64, "bits": bits}, [ids])
    return float(np.abs(result - floats(weights)[ids]).max())


def error_of_rotation(tokens: int, *, has_norms: bool) -> float:
    """Compare with heads as complex numbers, rotated by their angles."""
    random = np.random.default_rng(tokens)
    queries, keys, size = 3, 2, 8
    x: Any = random.standard_normal((tokens, (queries + 2 * keys) * size)).astype(np.float32)
    angles: Any = (random.random((tokens, size // 2)) * 100).astype(np.float32)
    norms: Any = random.random((2, size)).astype(np.float32)
    expected: Any = x.astype(np.float64).reshape(tokens, -1, size)
    rotated = expected[:, : queries + keys]
    if has_norms:
        rotated = rotated / np.sqrt((rotated**2).mean(axis=2, keepdims=True) + EPSILON)
        rotated = rotated * np.repeat(norms, (queries, keys), axis=0)
    complex_heads = (rotated[..., : size // 2] + 1j * rotated[..., size // 2 :]) * np.exp(1j * angles)[:, None]
    rotated = np.concatenate([complex_heads.real, complex_heads.imag], axis=2)
    expected = np.concatenate([rotated, expected[:, queries + keys :]], axis=1).reshape(x.shape)
    inputs = [ops.parameter([-1, x.shape[1]], np.float32)]
    inputs += [ops.parameter([-1, size // 2], np.float32) for _ in range(2)]
    inputs += [ops.constant(norm) for norm in norms] if has_norms else []
    attributes = {"queries": queries, "keys": keys, "size": size, "epsilon": EPSILON if has_norms else 0.0}
    result = run("RotatedHeads", inputs, attributes, [x, np.cos(angles), np.sin(angles)])
    return float(np.abs(result - expected).max())


def run(name: str, inputs: list[Any], attributes: dict[str, Any], arguments: list[Any]) -> Any:
    factory = NodeFactory()
    factory.add_extension(LIBRARY)
    parameters = [node for node in inputs if node.get_type_name() == "Parameter"]
    operation = factory.create(name, [node.output(0) for node in inputs], attributes)
    model = openvino.Model([ops.result(operation)], parameters, name)
    core = openvino.Core()
    core.add_extension(LIBRARY)
    # The plugin's own precision may be narrower than the operations' float32.
    compiled_model = core.compile_model(model, "CPU", {"INFERENCE_NUM_THREADS": 2, "INFERENCE_PRECISION_HINT": "f32"})
    (result,) = compiled_model(arguments).values()
    return result


def refusals() -> list[str]:
    """Return the messages for too few bytes and for a row that does not exist."""
    weights = matrix(32, 64, 4, np.random.default_rng(0))
    few = [ops.parameter([-1, 64], np.float32), ops.constant(weights.pack()[:-64])]
    attributes = {"rows": 32, "bits": 4, "epsilon": 0.0, "gated": False, "adds": False}
    rows = [ops.parameter([-1], np.int32), ops.constant(weights.pack())]
    tries = (
        ("GroupedMatMul", few, attributes, [np.ones((1, 64), dtype=np.float32)]),
        ("GroupedRows", rows, {"rows": 32, "columns": 64, "bits": 4}, [np.array([32], dtype=np.int32)]),
    )
    messages = []
    for case in tries:
        try:
            run(*case)
        except RuntimeError as error:
            messages.append(str(error))
    return messages


if __name__ == "__main__":
    products = {
        "-".join(map(str, case)): error_of(*case) for case in itertools.product(ROWS, COLUMNS, (4, 8), TOKENS, KINDS)
    }
    rotations = [error_of_rotation(tokens, has_norms=norms) for tokens in (1, 5, 40) for norms in (False, True)]
    rows = [error_of_rows(4), error_of_rows(8)]
    print(json.dumps({"products": products, "rows": rows, "rotations": rotations, "refusals": refusals()}))
