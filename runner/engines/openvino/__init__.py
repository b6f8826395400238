"""The engine openvino: continuous batching on CPUs, by OpenVINO GenAI."""

from __future__ import annotations

from runner.engine import Engine
from runner.settings import RunnerSettings


def make_engine(settings: RunnerSettings) -> Engine:
    """Return the engine, not loaded yet."""
    from runner.engines.openvino.engine import OpenVinoEngine

    return OpenVinoEngine(settings)
