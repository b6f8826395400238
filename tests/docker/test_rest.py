"""An openvino engine without requests for long gives its memory back, in the serving image."""

from __future__ import annotations

import pytest

from bench.quality.measuring import PreparedModel
from tests.docker.inside import run_inside

pytestmark = [pytest.mark.real_model, pytest.mark.timeout(600)]

MB = 1_000_000


def test_an_idle_model_gives_its_memory_back(default_model: PreparedModel) -> None:
    """After a rest the memory of 20 long prompts is given back, to within 64 MB of the loaded model's. A request
    meanwhile waits and gets the exact answer; a model that has not grown is left alone."""
    measured_values = run_inside("tests.docker.rest_cases", default_model)
    assert measured_values["used_bytes"] > measured_values["loaded_bytes"] + 200 * MB
    assert measured_values["rested_bytes"] < measured_values["loaded_bytes"] + 64 * MB
    assert ["The capital of France is Paris."] * 3 == measured_values["answers"]
    assert (1, 2) == (measured_values["loads_unused"], measured_values["loads"])
    assert measured_values["failure"] is None
