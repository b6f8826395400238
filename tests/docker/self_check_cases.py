"""Run in the openvino image: convert tiny random GGUF models, correctly and with a fault each; print the outcomes.

Prints one line of JSON: for each model the relative error of its conversion, and for each fault the refusal.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from runner.convert import gguf_tensors, llama_shape, openvino, self_check
from runner.convert.gguf_tensors import GgufTensors
from runner.engine import EngineError
from tests.docker.tiny_ggufs import MODELS, Keys, write_model

REFUSED_FILES: dict[str, Keys] = {
    "a tensor that is not known": {"architecture": "llama", "extra": "blk.0.attn_gate.weight"},
    "yarn": {"architecture": "llama", "keys": {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0}},
    "a soft cap": {"architecture": "llama", "keys": {"attn_logit_softcapping": 30.0}},
    "another scale of attention": {"architecture": "llama", "keys": {"attention.scale": 0.5}},
    "another architecture": {"architecture": "gemma2"},
}


def _without(*ends: str) -> Any:
    """Let the conversion not see the vectors with these endings; the file's own weights still have them."""
    whole = GgufTensors.vector

    def vector(self: GgufTensors, name: str) -> Any:
        values = whole(self, name)
        return None if name.endswith(ends) else values

    return patch.object(GgufTensors, "vector", vector)


def _ones(end: str) -> Any:
    whole = GgufTensors.vector

    def vector(self: GgufTensors, name: str) -> Any:
        values = whole(self, name)
        return np.ones_like(values) if name.endswith(end) else values

    return patch.object(GgufTensors, "vector", vector)


def _shape(**changes: Any) -> Any:
    def model_shape(name: str, header: Any) -> Any:
        shape = llama_shape.model_shape(name, header)
        return replace(shape, **{key: change(shape) for key, change in changes.items()})

    return patch.object(openvino, "model_shape", model_shape)


FAULTS: dict[str, tuple[str, Callable[[], Any]]] = {
    "a bias dropped": ("llama with biases", lambda: _without(".bias")),
    "a query's norm skipped": ("qwen3", lambda: _without("attn_q_norm.weight", "attn_k_norm.weight")),
    "a norm's weight skipped": ("llama", lambda: _ones("ffn_norm.weight")),
    "the rope's factors ignored": ("llama 3's rope", lambda: _without("rope_freqs.weight")),
    "the rope's stretch ignored": (
        "linear rope",
        lambda: _shape(inverse_frequencies=lambda shape: shape.inverse_frequencies * np.float32(4)),
    ),
    "rows in the wrong order": ("llama", lambda: patch.object(gguf_tensors, "halves_from_pairs", lambda rows, _: rows)),
    "another epsilon": ("llama", lambda: _shape(norm_epsilon=lambda _: 0.1)),
}  # fmt: skip


def convert(parameters: Keys, fault: Any = None) -> str:
    """Return the refusal of a conversion; empty if there is none."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        source, target = Path(folder, "model.gguf"), Path(folder, "target")
        target.mkdir()
        write_model(source, **parameters)
        if fault is not None:
            stack.enter_context(fault)
        try:
            openvino.convert_to_openvino(source, target, on_progress=lambda _: None)
        except EngineError as error:
            return f"{type(error).__name__}: {error}"
    return ""


def measured_errors() -> dict[str, float]:
    """Return each model's error, as the self-check measured it; `inf` for a model that was refused."""
    errors: dict[str, float] = {}
    measure = self_check.relative_error
    for name, parameters in MODELS.items():
        errors[name] = float("inf")

        def note(logits: Any, expected: Any, name: str = name) -> float:
            errors[name] = measure(logits, expected)
            return errors[name]

        with patch.object(self_check, "relative_error", note):
            if refusal := convert(parameters):
                raise SystemExit(f"{name}: {refusal}")
    return errors


if __name__ == "__main__":
    result = {
        "errors": measured_errors(),
        "faults": {name: convert(MODELS[model], make()) for name, (model, make) in FAULTS.items()},
        "files": {name: convert(parameters) for name, parameters in REFUSED_FILES.items()},
    }
    print(json.dumps(result))
