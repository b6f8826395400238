"""Makes the small models on this machine, in the transformers image without a network."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from controller.settings import ROOT
from tests.runner.tokenizer.packages import llama_cpp_source

IMAGE = "orchestrar-runner:latest"
DEADLINE_S = 900


def make_models(folder: Path, names: Sequence[str]) -> dict[str, Mapping[str, Any]]:
    """Write the models into the folder; return for each family its record, with `problem` where there is no model."""
    source = llama_cpp_source()
    command = [
        "docker", "run", "--rm", "--network=none", "--user=0", "--env=PYTHONDONTWRITEBYTECODE=1",
        "--env=PYTHONPATH=/opt/orchestrar:/converter", f"--volume={ROOT / 'tests'}:/opt/orchestrar/tests:ro",
        f"--volume={source / 'conversion'}:/converter/conversion:ro",
        f"--volume={source / 'gguf-py' / 'gguf'}:/converter/gguf:ro", f"--volume={folder}:/models", IMAGE,
        "python", "-m", "tests.families.small_models", "/models", *names,
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, timeout=DEADLINE_S)
    return {name: json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) for name in names}
