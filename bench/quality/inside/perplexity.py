"""In the openvino image: the perplexity of a model in OpenVINO's form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openvino

from runner.kernels import LIBRARY

# In parts, so that all but the first read keys and values from the cache, in the cache's precision.
PART_TOKENS = 60


def perplexity(model: Path, tokens: list[int], properties: dict[str, Any]) -> float:
    """Return the perplexity of a text, each token after the first predicted from all before it.

    `properties` are those of the CPU plugin.
    """
    core = openvino.Core()
    core.add_extension(LIBRARY)
    request = core.compile_model(model, "CPU", properties).create_infer_request()
    names = {name for place in request.model_inputs for name in place.names}
    ids = np.array([tokens], dtype=np.int64)
    losses: list[float] = []
    for start in range(0, len(tokens), PART_TOKENS):
        part = ids[:, start : start + PART_TOKENS]
        end = start + part.shape[1]
        inputs = {
            "input_ids": part,
            "attention_mask": np.ones((1, end), dtype=np.int64),
            "position_ids": np.arange(start, end, dtype=np.int64)[None],
            "beam_idx": np.zeros(1, dtype=np.int32),
        }
        if "sampled_tokens_indices" in names:
            # Without paged attention it counts sequences, of which there is one.
            inputs["sampled_tokens_indices"] = np.zeros(1, dtype=np.int64)
        (logits,) = request.infer(inputs).values()
        losses += _losses(logits[0], tokens[start + 1 : end + 1])
    return float(np.exp(np.mean(losses)))


def _losses(logits: Any, next_tokens: list[int]) -> list[float]:
    rows = logits[: len(next_tokens)].astype(np.float64)
    highest = rows.max(axis=1)
    sums = np.log(np.exp(rows - highest[:, None]).sum(axis=1)) + highest
    losses: list[float] = (sums - rows[np.arange(len(next_tokens)), next_tokens]).tolist()
    return losses
