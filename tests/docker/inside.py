"""Runs programs in a runner's image, without a network, and reads their results."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable
from typing import Any

from bench.quality.measuring import OPENVINO_IMAGE, PreparedModel
from controller.settings import ROOT

TESTS = f"--volume={ROOT / 'tests'}:/opt/orchestrar/tests:ro"


def run_in_image(
    image: str, *command: str, options: Iterable[str] = (), document: Any = None, deadline_s: float = 400
) -> Any:
    """Run the command in a new container, with the document as JSON on its standard input.

    Returns the last line that it printed, read as JSON; fails if the command does.
    """
    run = ["docker", "run", "--rm", "--interactive", "--network=none", *options, image, *command]
    result = subprocess.run(
        run, input=json.dumps(document), capture_output=True, text=True, timeout=deadline_s, check=False
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def run_inside(module: str, model: PreparedModel) -> Any:
    """Run a module of these tests in the openvino runner's image, beside the prepared model, and return its result."""
    options = ("--user=0", "--memory=2g", TESTS, f"--volume={model.volume}:/prepared:ro")
    return run_in_image(OPENVINO_IMAGE, "python", "-m", module, options=options)
