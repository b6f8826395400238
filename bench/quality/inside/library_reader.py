"""In the openvino image: the perplexity of what the library's own reader makes of a GGUF file, computed in float32."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import openvino_genai

from bench.quality.inside.perplexity import perplexity
from runner.engines.openvino.engine import MODEL_FILE
from runner.engines.openvino.precision import arithmetic

if __name__ == "__main__":
    task = json.load(sys.stdin)
    (source,) = Path("/source").glob("*.gguf")
    # The library opens the file for writing and writes its own model beside it.
    copy = Path("/weights") / source.name
    shutil.copyfile(source, copy)
    openvino_genai.LLMPipeline(copy, "CPU", enable_save_ov_model=True)
    model = copy.with_name(MODEL_FILE)
    print(json.dumps(perplexity(model, task["text"], arithmetic("float32", has_own_products=False).properties)))
