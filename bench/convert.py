"""`bench/.venv/bin/python -m bench.convert GGUF FOLDER`: the weights, dequantised, as `transformers` reads them."""

from __future__ import annotations

import sys
from pathlib import Path

from runner.convert.gguf import convert_gguf


def main() -> None:
    """Into a folder beside it first, so that half of one is never taken for the whole."""
    source, target = map(Path, sys.argv[1:])
    partial = target.with_suffix(".partial")
    partial.mkdir(parents=True, exist_ok=True)
    convert_gguf(source, partial, dtype="float32", on_progress=lambda _: None)
    partial.rename(target)


if __name__ == "__main__":
    main()
