"""Rules between values of models.yaml, checked on the raw values so that all errors are reported together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias, get_args

from controller.registry.engine_facts import EngineFacts
from controller.registry.file.auto_engine import AUTO, auto_engine
from controller.registry.file.problems import KeyPath, closest, one_line, quoted
from controller.registry.other_libraries import hub_source
from controller.registry.source_ref import HttpsSource, HubSource, SourceRef, parse_source
from controller.registry.spec import ModelSpec, Task

Finding: TypeAlias = tuple[KeyPath, str]

_TASKS = get_args(Task)
_TASKS_WITHOUT_CHAT = tuple(task for task in _TASKS if task != "chat")


def findings(value: Any, engines: Mapping[str, EngineFacts]) -> Iterator[Finding]:
    """Yield what is wrong between the values of a file, as far as they have the right types."""
    models = value.get("models") if isinstance(value, dict) else None
    if not isinstance(models, dict):
        return
    if not models:
        yield ("models",), "has no model; write at least one, such as `my-model: {source: hf://owner/name}`"
    parts = {name: part for name, part in models.items() if isinstance(part, dict)}
    for name, part in parts.items():
        yield from _engine(name, part, engines)
        yield from _source(name, part)
        if "chat_template" in part and part.get("task", ModelSpec.task) in _TASKS_WITHOUT_CHAT:
            yield ("models", name, "chat_template"), "is only used with `task: chat`; remove it"
    yield from _aliases(parts, set(models))
    yield from _ports(parts)


def _engine(name: str, part: dict[str, Any], engines: Mapping[str, EngineFacts]) -> Iterator[Finding]:
    engine = part.get("engine", AUTO)
    if not isinstance(engine, str):
        return
    choice = _auto_choice(part, engines)
    task = part.get("task")
    if engine in engines and task in _TASKS and task not in engines[engine].tasks:
        other = f"write {choice}, or remove it" if choice else "write another engine"
        yield ("models", name, "engine"), f"{engine} does not serve `task: {task}`; {other}"
    if engine in engines or (engine == AUTO and choice):
        return
    names = [*([AUTO] if choice else []), *sorted(set(engines) - {AUTO})]
    guess = closest(engine, names)
    hint = f"; did you mean {guess}?" if guess else ""
    yield ("models", name, "engine"), f"{quoted(engine)} is no engine here{hint}; write one of {', '.join(names)}"


def _auto_choice(part: dict[str, Any], engines: Mapping[str, EngineFacts]) -> str | None:
    """Return the engine that `auto` means for this entry, as far as its other values can be read."""
    source, resources = _source_of(part), part.get("resources")
    gpus = resources.get("gpus") if isinstance(resources, dict) else None
    if source is None:
        return next((name for name, engine in engines.items() if engine.auto), None)
    task = next((task for task in _TASKS if task == part.get("task")), ModelSpec.task)
    return auto_engine(source, task=task, gpus=gpus if isinstance(gpus, int) else 0, engines=engines)


def _source(name: str, part: dict[str, Any]) -> Iterator[Finding]:
    source = _source_of(part)
    if source is None:
        return
    if isinstance(source, HubSource):
        if source.revision is not None and "revision" in part:
            yield ("models", name, "revision"), f"is given twice, here and in the source (@{source.revision}); keep one"
        if "sha256" in part:
            text = "a repository has no single checksum; remove it, and write a commit hash as `revision`"
            yield ("models", name, "sha256"), text
    elif "revision" in part:
        yield ("models", name, "revision"), "only hf:// sources have a revision; remove it"
    if isinstance(source, HttpsSource) and "sha256" not in part:
        text = 'an https:// source needs its checksum; write `sha256: "…"` with the 64 digits that sha256sum prints'
        if (source_of_hub := hub_source(source.url)) is not None:
            text += f", or `source: {source_of_hub}`, whose checksums the hub knows"
        yield ("models", name, "sha256"), text


def _source_of(part: dict[str, Any]) -> SourceRef | None:
    source = part.get("source")
    try:
        return parse_source(source) if isinstance(source, str) else None
    except ValueError:
        return None


def _aliases(parts: dict[str, dict[str, Any]], ids: set[str]) -> Iterator[Finding]:
    owners: dict[str, str] = {}
    for name, part in parts.items():
        aliases = part.get("aliases")
        for i, alias in enumerate(aliases if isinstance(aliases, list) else ()):
            path = ("models", name, "aliases", i)
            if not isinstance(alias, str):
                continue
            # To Ollama's clients these are one name: they add `latest` and ignore capitals.
            key = alias.lower().removesuffix(":latest")
            if key in ids:
                owner = "this model's own id" if key == name else "the id of another model"
                yield path, f"{quoted(alias)} is {owner}; remove it or write another name"
            elif key in owners:
                text = f"{quoted(alias)} is an alias of {one_line(owners[key])} already; remove it or write another"
                yield path, text
            owners.setdefault(key, name)


def _ports(parts: dict[str, dict[str, Any]]) -> Iterator[Finding]:
    owners: dict[int, str] = {}
    for name, part in parts.items():
        port = part.get("port")
        if isinstance(port, bool) or not isinstance(port, int):
            continue
        if port in owners:
            text = f"{port} is the port of {one_line(owners[port])} already; write another, or remove it to get one"
            yield ("models", name, "port"), text
        owners.setdefault(port, name)
