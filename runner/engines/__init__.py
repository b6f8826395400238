"""The engines. The folder NAME holds the engine NAME, with a function `make_engine`; it alone imports its library."""

from __future__ import annotations

import importlib
import pkgutil

from runner.engine import Embedder, Engine, EngineError
from runner.settings import RunnerSettings


def make_engine(settings: RunnerSettings) -> Engine | Embedder:
    """Return an engine that is not loaded yet: `load` imports its library. Raises EngineError for an unknown name."""
    names = sorted(name for _, name, is_folder in pkgutil.iter_modules(__path__) if is_folder)
    if settings.engine not in names:
        raise EngineError(f"this image has no engine {settings.engine!r}, it has: {', '.join(names)}")
    engine: Engine | Embedder = importlib.import_module(f"{__name__}.{settings.engine}").make_engine(settings)
    return engine
