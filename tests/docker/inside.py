"""Runs a module of these tests in the openvino runner's image, beside the prepared model, without a network."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from bench.quality.measuring import OPENVINO_IMAGE, PreparedModel
from controller.settings import ROOT


def run_inside(module: str, model: PreparedModel, *, deadline_s: float = 400) -> Any:
    """What it printed last, read as JSON."""
    mounts = [f"--volume={ROOT / 'tests'}:/opt/orchestrar/tests:ro", f"--volume={model.volume}:/prepared:ro"]
    run = ["docker", "run", "--rm", "--network=none", "--user=0", "--memory=2g", *mounts, OPENVINO_IMAGE]
    result = subprocess.run([*run, "python", "-m", module], capture_output=True, text=True, timeout=deadline_s)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])
