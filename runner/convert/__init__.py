"""Conversions from the forms in which models are published to the form that an engine loads.

The module `to_NAME` converts for the engine NAME: it has a function `convert` of the type `Converter`.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypedDict, cast

from runner.engine import EngineError

_PREFIX = "to_"
# Before numpy is imported. Its products here are small, and its threads would wait for each other at each of them: with
# another process on the same cores, the self-check of SmolLM2-135M takes 15 s instead of 6 s.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


class ModelFacts(TypedDict):
    """What the controller has to know of a converted model; 0 or empty if it is unknown."""

    weights_bytes: int
    kv_bytes_per_token: int
    context_length: int
    parameters: int
    architecture: str


class Converter(Protocol):
    """Writes into the folder `weights` what the engine loads; `on_progress` gets the fraction done."""

    def __call__(
        self, gguf: Path, weights: Path, *, dtype: str, on_progress: Callable[[float], None]
    ) -> ModelFacts: ...


def converter_for(engine: str) -> Converter:
    """Return the engine's converter. Raises EngineError, which names the known engines, if there is none."""
    names = [name for _, name, _ in pkgutil.iter_modules(__path__) if name.startswith(_PREFIX)]
    if f"{_PREFIX}{engine}" not in names:
        engines = ", ".join(sorted(name.removeprefix(_PREFIX) for name in names))
        raise EngineError(f"nothing is prepared for the engine {engine!r}, only for: {engines}")
    return cast(Converter, importlib.import_module(f"{__name__}.{_PREFIX}{engine}").convert)
