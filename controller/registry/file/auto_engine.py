"""Which engines `auto` may mean, and which one it means as long as only the source's name is known."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase

from controller.registry.engine_facts import AutoRule, EngineFacts
from controller.registry.source_ref import HubSource, SourceRef
from controller.registry.spec import Candidate

AUTO = "auto"


def auto_engine(source: SourceRef, *, task: str, gpus: int, engines: Mapping[str, EngineFacts]) -> str | None:
    """Return the first engine, by the order of their rules, that takes a model like this; None if none does.

    The source's name alone decides. Once the files are here they decide instead, among `auto_candidates`.
    """
    rules = _rules(task, gpus, engines)
    return next((name for name, rule in rules if _takes(rule, source)), None)


def auto_candidates(*, task: str, gpus: int, engines: Mapping[str, EngineFacts]) -> tuple[Candidate, ...]:
    """Return the engines that may serve a model like this, in the order of their rules, whatever its files are."""
    return tuple(
        Candidate(engine=name, files=tuple(rule.files), max_concurrency=engines[name].max_concurrency)
        for name, rule in _rules(task, gpus, engines)
    )


def _rules(task: str, gpus: int, engines: Mapping[str, EngineFacts]) -> list[tuple[str, AutoRule]]:
    rules = [(name, engine.auto) for name, engine in engines.items() if engine.auto and task in engine.tasks]
    return sorted(((n, rule) for n, rule in rules if rule.gpus or not gpus), key=lambda pair: (pair[1].order, pair[0]))


def _takes(rule: AutoRule, source: SourceRef) -> bool:
    name = str(source).lower()
    if isinstance(source, HubSource):
        # A quantisation asks for a GGUF file.
        file = f"/{source.file or f'{source.quant}.gguf'}" if source.file or source.quant else ""
        name = f"hf://{source.repo}{file}".lower()
    return any(fnmatchcase(name, pattern) for pattern in rule.sources)
