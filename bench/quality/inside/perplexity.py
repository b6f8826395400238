"""In the openvino image: the perplexity of a model in OpenVINO's form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openvino

from runner.kernels import LIBRARY

# Parts, so that all but the first read keys and values from the cache, in the precision it has.
PART_TOKENS = 60


def perplexity(model: Path, tokens: list[int], properties: dict[str, Any]) -> float:
    """Of a text, each token after the first from all before it, computed with these properties of the CPU plugin."""
    core = openvino.Core()
    core.add_extension(LIBRARY)
    request = core.compile_model(model, "CPU", properties).create_infer_request()
    names = {name for place in request.model_inputs for name in place.names}
    ids = np.array([tokens], dtype=np.int64)
    losses: list[float] = []
    for begin in range(0, len(tokens), PART_TOKENS):
        part = ids[:, begin : begin + PART_TOKENS]
        end = begin + part.shape[1]
        inputs = {
            "input_ids": part,
            "attention_mask": np.ones((1, end), dtype=np.int64),
            "position_ids": np.arange(begin, end, dtype=np.int64)[None],
            "beam_idx": np.zeros(1, dtype=np.int32),
        }
        if "sampled_tokens_indices" in names:
            # Without paged attention it counts sequences, of which there is one.
            inputs["sampled_tokens_indices"] = np.zeros(1, dtype=np.int64)
        (logits,) = request.infer(inputs).values()
        losses += _losses(logits[0], tokens[begin + 1 : end + 1])
    return float(np.exp(np.mean(losses)))


def _losses(logits: Any, wanted: list[int]) -> list[float]:
    rows = logits[: len(wanted)].astype(np.float64)
    highest = rows.max(axis=1)
    sums = np.log(np.exp(rows - highest[:, None]).sum(axis=1)) + highest
    found: list[float] = (sums - rows[np.arange(len(wanted)), wanted]).tolist()
    return found
