"""The engine transformers: any causal model and embeddings, on CPUs and GPUs, by transformers and torch."""

from __future__ import annotations

from runner.engine import Embedder, Engine
from runner.settings import RunnerSettings


def make_engine(settings: RunnerSettings) -> Engine | Embedder:
    """Return the engine for the model's task, not loaded yet."""
    if settings.task == "embedding":
        from runner.engines.transformers.embedder import TransformersEmbedder

        return TransformersEmbedder(settings)
    from runner.engines.transformers.engine import TransformersEngine

    return TransformersEngine(settings)
