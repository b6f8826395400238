"""models.yaml → Registry, or everything that is wrong with the file at once."""

from __future__ import annotations

import dataclasses
import stat
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from controller.errors import ConfigInvalid
from controller.registry.engine_facts import EngineFacts
from controller.registry.file.auto_engine import AUTO, auto_candidates, auto_engine
from controller.registry.file.checks import findings
from controller.registry.file.file_model import DefaultsPart, ModelPart, ModelsFile
from controller.registry.file.problems import FileBroken, FileRefused, Problem, field_name
from controller.registry.file.shape import shape
from controller.registry.file.template_files import read_templates
from controller.registry.file.yaml_lines import parse_yaml
from controller.registry.source_ref import HubSource, SourceRef
from controller.registry.spec import (
    Candidate,
    ChatTemplateFile,
    GenerationDefaults,
    ModelSpec,
    Registry,
    Resources,
)

MAX_FILE_BYTES = 1 << 20

_TIMES = ("idle_timeout", "start_timeout", "max_wait", "min_residency")


def load_registry(path: Path, *, engines: Mapping[str, EngineFacts]) -> Registry:
    """Return the registry in the file, for these engines. Raises ConfigInvalid with every problem, ordered by line."""
    try:
        file, templates = _validated(_read(path), engines, path.absolute().parent)
        return _registry(file, engines, templates)
    except FileRefused as refusal:
        raise ConfigInvalid([problem.render(str(path)) for problem in refusal.problems]) from None


def _validated(
    text: str, engines: Mapping[str, EngineFacts], folder: Path
) -> tuple[ModelsFile, Mapping[str, ChatTemplateFile]]:
    """Return the file, and the chat templates that its models name, by the models' ids."""
    document = parse_yaml(text)
    if document.value is None and not document.problems:
        raise FileBroken(1, "file", "is empty; write `models:` and under it at least one model")
    file, shape_findings = shape(document.value)
    templates, template_findings = read_templates(document.value, folder)
    problems = set(document.problems)
    for path, sentence in [*shape_findings, *findings(document.value, engines), *template_findings]:
        if path not in document.lines and path[-1:] == ("[key]",):
            path = path[:-1]  # pydantic's mark for a key that is wrong itself
        if path not in document.unreadable:
            problems.add(Problem(document.line(path), field_name(path), sentence))
    if problems or file is None:
        raise FileRefused(sorted(problems))
    return file, templates


def _read(path: Path) -> str:
    try:
        # A pipe or a device would block or never end.
        if not stat.S_ISREG(path.stat().st_mode):
            raise FileBroken(1, "file", "is not a regular file; name a file of YAML text")
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise FileBroken(1, "file", "does not exist; write it, see docs/models-yaml.md") from None
    except PermissionError:
        raise FileBroken(1, "file", "cannot be read; give your user the right to read it (chmod u+r)") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise FileBroken(1, "file", f"cannot be read ({reason}); name a file of YAML text") from None
    if len(content) > MAX_FILE_BYTES:
        raise FileBroken(1, "file", f"is larger than {MAX_FILE_BYTES >> 20} MiB; write a shorter file")
    return _decode(content)


def _decode(content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise FileBroken(line, "file", "holds bytes that are not UTF-8; save it as UTF-8") from None


def _registry(
    file: ModelsFile, engines: Mapping[str, EngineFacts], templates: Mapping[str, ChatTemplateFile]
) -> Registry:
    return Registry(
        memory_budget_bytes=file.memory_budget,
        models=MappingProxyType(
            {
                name: dataclasses.replace(_spec(name, part, file.defaults, engines), chat_template=templates.get(name))
                for name, part in file.models.items()
            }
        ),
    )


def _spec(name: str, part: ModelPart, defaults: DefaultsPart, engines: Mapping[str, EngineFacts]) -> ModelSpec:
    times: dict[str, Any] = {}
    for key in _TIMES:
        own = getattr(part, key)
        times[f"{key}_s"] = getattr(defaults, key) if own is None else own
    same = {f.name for f in dataclasses.fields(ModelSpec)} & set(ModelPart.model_fields)
    same -= {"source", "engine", "generation", "resources", "max_concurrency", "chat_template"}
    source = _with_revision(part.source, part.revision)
    engine, reason, candidates = _engine(part, source, engines)
    return ModelSpec(
        id=name,
        source=source,
        engine=engine,
        engine_reason=reason,
        candidates=candidates,
        max_concurrency=part.max_concurrency or engines[engine].max_concurrency,
        generation=GenerationDefaults(**part.generation.model_dump()),
        resources=Resources(cpus=part.resources.cpus, memory_bytes=part.resources.memory, gpus=part.resources.gpus),
        **{key: getattr(part, key) for key in same},
        **times,
    )


def _engine(
    part: ModelPart, source: SourceRef, engines: Mapping[str, EngineFacts]
) -> tuple[str, str, tuple[Candidate, ...]]:
    """Return the engine as far as it is known before the download, why it is that one, and which others it may be."""
    if part.engine != AUTO:
        return part.engine, ModelSpec.engine_reason, ()
    facts: dict[str, Any] = {"task": part.task, "gpus": part.resources.gpus, "engines": engines}
    engine = auto_engine(source, **facts)
    assert engine is not None, "the checks refused such an entry"
    if part.image is not None:
        # An image is one engine's. No other can be tried in it.
        return engine, "the name of its source says so, and `image` is for one engine", ()
    candidates = auto_candidates(**facts)
    if part.max_concurrency is not None:
        candidates = tuple(dataclasses.replace(c, max_concurrency=part.max_concurrency) for c in candidates)
    return engine, "the name of its source says so; its files decide when they are here", candidates


def _with_revision(source: SourceRef, revision: str | None) -> SourceRef:
    if isinstance(source, HubSource) and revision is not None:
        return dataclasses.replace(source, revision=revision)
    return source
