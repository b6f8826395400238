"""The engines by name. Each lives in a module of its own, the only importer of its library."""

from __future__ import annotations

from collections.abc import Callable

from runner.engine import Embedder, Engine, EngineError
from runner.settings import RunnerSettings


def make_engine(settings: RunnerSettings) -> Engine | Embedder:
    """An engine that is not loaded yet; its library is imported by `load`. Raises EngineError for an unknown name."""
    try:
        make = _ENGINES[settings.engine]
    except KeyError:
        known = ", ".join(sorted(_ENGINES))
        raise EngineError(f"this image has no engine {settings.engine!r}, it has: {known}") from None
    return make(settings)


def _transformers(settings: RunnerSettings) -> Engine | Embedder:
    if settings.task == "embedding":
        from runner.engines.transformers.embedder import TransformersEmbedder

        return TransformersEmbedder(settings)
    from runner.engines.transformers.engine import TransformersEngine

    return TransformersEngine(settings)


def _openvino(settings: RunnerSettings) -> Engine:
    from runner.engines.openvino.engine import OpenVinoEngine

    return OpenVinoEngine(settings)


_ENGINES: dict[str, Callable[[RunnerSettings], Engine | Embedder]] = {
    "openvino": _openvino,
    "transformers": _transformers,
}
