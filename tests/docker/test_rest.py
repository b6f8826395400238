"""An openvino engine that nobody asks for long gives its memory back, in the image that serves."""

from __future__ import annotations

import json
import subprocess

import pytest

from bench.quality.measuring import OPENVINO_IMAGE, PreparedModel
from controller.settings import ROOT

pytestmark = [pytest.mark.real_model, pytest.mark.timeout(600)]

MB = 1_000_000


def test_an_idle_model_gives_its_memory_back(default_model: PreparedModel) -> None:
    """What 32 long prompts took is given back after a rest, within 64 MB of what the loaded model had; who asks while
    that goes on waits and gets the exact answer; a model that has not grown is left alone."""
    mounts = [f"--volume={ROOT / 'tests'}:/opt/orchestrar/tests:ro", f"--volume={default_model.volume}:/prepared:ro"]
    run = ["docker", "run", "--rm", "--network=none", "--user=0", "--memory=2g", *mounts, OPENVINO_IMAGE]
    done = subprocess.run(
        [*run, "python", "-m", "tests.docker.rest_cases"], capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["used_bytes"] > found["loaded_bytes"] + 200 * MB
    assert found["rested_bytes"] < found["loaded_bytes"] + 64 * MB
    assert ["The capital of France is Paris."] * 3 == found["answers"]
    assert (1, 2) == (found["loads_unused"], found["loads"])
    assert found["failure"] is None
