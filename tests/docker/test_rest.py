"""An openvino engine that nobody asks for long gives its memory back, in the image that serves."""

from __future__ import annotations

import pytest

from bench.quality.measuring import PreparedModel
from tests.docker.inside import run_inside

pytestmark = [pytest.mark.real_model, pytest.mark.timeout(600)]

MB = 1_000_000


def test_an_idle_model_gives_its_memory_back(default_model: PreparedModel) -> None:
    """What 20 long prompts took is given back after a rest, within 64 MB of what the loaded model had; who asks while
    that goes on waits and gets the exact answer; a model that has not grown is left alone."""
    measured_values = run_inside("tests.docker.rest_cases", default_model)
    assert measured_values["used_bytes"] > measured_values["loaded_bytes"] + 200 * MB
    assert measured_values["rested_bytes"] < measured_values["loaded_bytes"] + 64 * MB
    assert ["The capital of France is Paris."] * 3 == measured_values["answers"]
    assert (1, 2) == (measured_values["loads_unused"], measured_values["loads"])
    assert measured_values["failure"] is None
