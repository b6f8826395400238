"""Which engine `auto` means."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase

from controller.registry.engine_facts import AutoRule, EngineFacts
from controller.registry.source_ref import SourceRef

AUTO = "auto"


def auto_engine(source: SourceRef, *, task: str, gpus: int, engines: Mapping[str, EngineFacts]) -> str | None:
    """Return the first engine, by the order of their rules, that takes a model like this; None if none does.

    The source's name alone decides, because a model is not downloaded before it is used.
    """
    rules = {name: engine.auto for name, engine in engines.items() if engine.auto and task in engine.tasks}
    matches = [(rule.order, name) for name, rule in rules.items() if _takes(rule, source, gpus)]
    return min(matches)[1] if matches else None


def _takes(rule: AutoRule, source: SourceRef, gpus: int) -> bool:
    name = str(source).lower()
    path, _, _ = name.partition("@") if name.startswith("hf://") else (name, "", "")
    return (rule.gpus or not gpus) and any(fnmatchcase(path, pattern) for pattern in rule.sources)
