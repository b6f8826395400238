"""Compares a converted graph with its file's own weights before the model may serve."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from runner.convert.gguf_file import GgufFile
from runner.convert.gguf_tensors import LOSSLESS
from runner.convert.grouped import round_to_groups
from runner.convert.plain_forward import PlainModel
from runner.convert.weights import Array
from runner.engine import ModelUnfit
from runner.kernels import LIBRARY

# A rotary embedding whose slow frequencies are wrong shows only between positions that are far apart.
POSITIONS = (0, 1, 2, 3, 2000, 2001, 6000, 6003)
# In units of the logits' spread. The products round activations to 16 bits: SmolLM2-135M's file differs by 0.0007, and
# what the tests leave out or confuse by 0.28 or more.
TOLERANCE = 0.02


def self_check(file: GgufFile, graph: Path) -> None:
    """Raise ModelUnfit, with the figure, if the graph's logits are not those of the file's own weights."""
    tokens = sample_tokens(file)
    # The graph lets a token see those whose place is not above its position.
    is_hidden = np.arange(len(tokens))[None, :] > np.array(POSITIONS)[:, None]
    expected = PlainModel(file, partial(_rounded, file)).logits(tokens, np.array(POSITIONS), is_hidden)
    require_equal(_graph_logits(graph, tokens), expected, TOLERANCE, file.name)


def _rounded(file: GgufFile, name: str, rows: Any) -> Array:
    """Return a matrix as the graph holds it: how much rounding costs depends on the model, and is no fault."""
    values = file.values(name, rows)
    return values if file.type_name(name) in LOSSLESS else round_to_groups(values).floats()


def require_equal(logits: Array, expected: Array, tolerance: float, name: str) -> None:
    """Raise ModelUnfit, with the figure, if the logits [tokens, vocabulary] differ by more than the tolerance."""
    error = relative_error(logits, expected)
    # Not `error > tolerance`: that is false for a NaN.
    if not error <= tolerance:
        raise ModelUnfit(
            f"the converted model is not the one in {name}: its logits differ by {error:.1%} of their spread, and "
            f"{tolerance:.0%} is allowed"
        )


def sample_tokens(file: GgufFile) -> list[int]:
    """Return tokens from all over the vocabulary."""
    vocabulary = file.row_count("token_embd.weight")
    return [(vocabulary * (2 * place + 1)) // (2 * len(POSITIONS)) for place in range(len(POSITIONS))]


def relative_error(logits: Array, expected: Array) -> float:
    """Return the greatest error of a token: the root mean square of the difference, in units of the logits' spread."""
    if logits.shape != expected.shape:
        return float("inf")
    difference = np.sqrt(np.mean((logits - expected) ** 2, axis=-1))
    return float((difference / expected.std(axis=-1)).max())


def _graph_logits(graph: Path, tokens: list[int]) -> Array:
    import openvino

    core = openvino.Core()
    core.add_extension(LIBRARY)
    properties = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0, "KV_CACHE_PRECISION": "f32"}
    request = core.compile_model(graph, "CPU", properties).create_infer_request()
    inputs: dict[str, Any] = {
        "input_ids": np.array([tokens], dtype=np.int64),
        "attention_mask": np.ones((1, len(tokens)), dtype=np.int64),
        "position_ids": np.array([POSITIONS], dtype=np.int64),
        "beam_idx": np.zeros(1, dtype=np.int32),
        "sampled_tokens_indices": np.zeros(1, dtype=np.int64),
    }
    request.infer(inputs)
    return np.array(request.get_tensor("logits").data[0])
