"""A conversion that is not the file's model is refused before it serves: tiny random models in the runner's images."""

from __future__ import annotations

from typing import Any

import pytest

from bench.quality.measuring import OPENVINO_IMAGE
from tests.docker.inside import TESTS, run_in_image

pytestmark = [pytest.mark.docker, pytest.mark.timeout(300)]

TRANSFORMERS_IMAGE = "orchestrar-runner:latest"
# What transformers 5.23 reads from a GGUF as from the model's own files.
READ_RIGHTLY = {"llama", "llama, tied", "qwen2", "Q4_0", "Q5_0"}


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Any]:
    """Return what became of each conversion for the engine openvino."""
    document: dict[str, Any] = run_in_image(
        OPENVINO_IMAGE, "python", "-m", "tests.docker.self_check_cases", options=["--user=0", TESTS]
    )
    return document


def test_right_conversions_differ_by_rounding_alone(outcomes: dict[str, Any]) -> None:
    """Of every family and kind of rope, the graph's logits are those of the file's own weights."""
    assert 10 == len(outcomes["errors"])
    assert max(outcomes["errors"].values()) < 0.002


def test_every_fault_is_noticed(outcomes: dict[str, Any]) -> None:
    """A bias left out, a norm skipped, a rope ignored, rows in the wrong order: each is refused by its figure."""
    assert 7 == len(outcomes["faults"])
    for name, refusal in outcomes["faults"].items():
        assert refusal.startswith("ModelUnfit: the converted model is not the one in model.gguf"), (name, refusal)


def test_what_is_not_computed_is_refused_by_name(outcomes: dict[str, Any]) -> None:
    """A tensor that the graph would leave out, and a key that it would ignore, are named."""
    files = outcomes["files"]
    assert "the tensor blk.0.attn_gate.weight" in files["a tensor that is not known"]
    assert "stretched by yarn" in files["yarn"]
    assert "llama.attn_logit_softcapping to 30.0" in files["a soft cap"]
    assert "llama.attention.scale to 0.5" in files["another scale of attention"]
    assert "is a gemma2" in files["another architecture"]


def test_transformers_serves_only_what_it_read_rightly() -> None:
    """transformers leaves out biases and ropes of GGUF files without an error; such a model is refused."""
    outcomes: dict[str, str] = run_in_image(
        TRANSFORMERS_IMAGE, "python", "-m", "tests.docker.transformers_gguf_cases", options=["--user=0", TESTS]
    )
    assert READ_RIGHTLY == {name for name, outcome in outcomes.items() if outcome.startswith("tokens [95, 94, 95] 4")}
    refusals = [outcome for name, outcome in outcomes.items() if name not in READ_RIGHTLY]
    assert all(refusal.startswith("ModelUnfit: ") for refusal in refusals), refusals
