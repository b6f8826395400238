"""Copies beside converted weights what the source says about how a text becomes a vector."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from runner.convert.gguf_header import read_header

# The files that `sentence_recipe` reads, as repositories have them beside their weights.
PATTERNS = ("modules.json", "sentence_*_config.json", "config_sentence_transformers.json", "[0-9]*_*/config.json",
            "[0-9]*_*/model.safetensors")  # fmt: skip
# GGUF's numbers for kinds of pooling; the others (none, a ranking) do not turn a text into a vector.
POOLING_TYPES = {1: "mean", 2: "cls", 3: "lasttoken"}


def keep_sentence_files(gguf: Path, target: Path) -> None:
    """Copy the files beside the GGUF file; without them, write what its header says, if anything."""
    paths = [path for pattern in PATTERNS for path in gguf.parent.glob(pattern)]
    for path in paths:
        copy = target / path.relative_to(gguf.parent)
        copy.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, copy)
    pooling = POOLING_TYPES.get(read_header(gguf).of_model("pooling_type", 0))
    if pooling is None or (target / "modules.json").exists():
        return
    steps = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
    modules = [{"type": f"sentence_transformers.models.{kind}", "path": path} for kind, path in steps.items()]
    (target / "1_Pooling").mkdir()
    (target / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": pooling}) + "\n")
    (target / "modules.json").write_text(json.dumps(modules, indent=2) + "\n")
