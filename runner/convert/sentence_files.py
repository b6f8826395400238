"""Keeps beside converted weights how a text's vector is made of them, where the source says so."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from runner.convert.gguf_header import read_header

# What `runner.sentence_recipe` reads, as repositories have it beside their weights.
PATTERNS = ("modules.json", "sentence_*_config.json", "config_sentence_transformers.json", "[0-9]*_*/config.json",
            "[0-9]*_*/model.safetensors")  # fmt: skip
# The numbers that GGUF files give to kinds of pooling; the others (none at all, a ranking) make no vector of a text.
POOLING_TYPES = {1: "mean", 2: "cls", 3: "lasttoken"}


def keep_sentence_files(gguf: Path, target: Path) -> None:
    """Copies the files that lie beside the GGUF file; without them, writes what its own header says, if anything."""
    found = [path for pattern in PATTERNS for path in gguf.parent.glob(pattern)]
    for path in found:
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
