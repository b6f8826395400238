"""How close the answers of the openvino engine are to exact ones.

    .venv/bin/python -m bench.quality [--model smollm2-135m] [--json FILE]

Prints how many of twenty prompts get the first 16 tokens that `model.generate` of transformers makes greedily of the
very weights the engine loads, and perplexities on a fixed text beside the dequantised source's. Needs both runner
images and no controller.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict
from pathlib import Path

from bench.quality.measuring import MAX_TOKENS, compare, prepared_model
from controller.settings import Settings
from tests.prompts import TWENTY_PROMPTS


def main() -> None:
    """Measure, print, and write JSON if requested."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    model = prepared_model(Settings.from_environ(os.environ), options.model)
    comparison = compare(model, TWENTY_PROMPTS, with_library_reader=True)
    print(f"perplexity of the dequantised source on {comparison.text_tokens} tokens: {comparison.perplexity:.4f}")
    print(f"the engine's weights in transformers, float32: {comparison.engine_weights:.4f} x")
    figures = comparison.engine
    equal = f"{figures.alone} alone, {figures.together} together, of {comparison.prompts}"
    print(f"the engine: perplexity {figures.perplexity:.4f} x, first {MAX_TOKENS} tokens equal for {equal}")
    print(f"the library's own GGUF reader, float32: {comparison.library_reader:.4f} x")
    if options.json:
        options.json.write_text(json.dumps({"model": options.model, **asdict(comparison)}, indent=2) + "\n")


if __name__ == "__main__":
    main()
