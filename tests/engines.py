"""The facts of shipped engines, for tests that need some of them."""

from __future__ import annotations

from controller.deployment.engine_templates import read_engines
from controller.deployment.engines import Engine
from controller.settings import ROOT

ALL_ENGINES = read_engines(ROOT / "templates")


def engine_facts(*names: str) -> dict[str, Engine]:
    """Return these engines and no others."""
    return {name: ALL_ENGINES[name] for name in names}
