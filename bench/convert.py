"""`bench/.venv/bin/python -m bench.convert GGUF FOLDER`: dequantises weights for `transformers`."""

from __future__ import annotations

import sys
from pathlib import Path

from runner.convert.gguf import convert_gguf


def main() -> None:
    """Convert into a folder beside the target and rename it, so that an interrupted run leaves no half target."""
    source, target = map(Path, sys.argv[1:])
    partial = target.with_suffix(".partial")
    partial.mkdir(parents=True, exist_ok=True)
    convert_gguf(source, partial, dtype="float32", on_progress=lambda _: None)
    partial.rename(target)


if __name__ == "__main__":
    main()
