"""What the names of a source's files say about who can serve them. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from controller.deployment.engines import Engine
from controller.registry import ModelSpec
from controller.registry.source_ref import HubSource, SourceRef
from controller.sources.split_files import missing_parts, model_of, parts_of
from controller.sources.weights import gguf_addition, gguf_models

_ADAPTER = "adapter_config.json"
_ADAPTER_WEIGHTS = ("adapter_model*.safetensors", "adapter*.bin")
# What lies beside weights and holds none: configurations, vocabularies, templates, notes.
_TEXTS = frozenset({".json", ".txt", ".model", ".tiktoken", ".jinja", ".md", ".yaml", ".yml"})
_NAMES_SHOWN = 5
_LINES_SHOWN = 20


def no_model(names: Collection[str]) -> str | None:
    """Return why no engine can serve these files; None if they may be a model."""
    if _ADAPTER in names and not any(_holds_weights(name) for name in names):
        return (
            f"the source is a LoRA adapter ({_ADAPTER}), which changes a model and is none by itself; merge it into "
            "its base model (`merge_and_unload` of the peft library) and name the folder of the merged model"
        )
    ggufs = [name for name in names if name.lower().endswith(".gguf")]
    if ggufs and not gguf_models(ggufs) and not any(_holds_weights(name) for name in set(names).difference(ggufs)):
        return (
            f"the source holds no model: {min(ggufs)} is {gguf_addition(min(ggufs))}; name the model's own .gguf file"
        )
    # A single file without an ending may be anything. Beside others it is a licence or the like.
    texts = _TEXTS | {""} if len(names) > 1 else _TEXTS
    if all(PurePosixPath(name).suffix.lower() in texts for name in names):
        return (
            f"the source holds no weights, only {names_of(names)}; name one with .safetensors or .gguf files beside "
            "the tokenizer"
        )
    return None


def unfit_files(name: str, engine: Engine, source: SourceRef, names: Collection[str]) -> str | None:
    """Return why the engine of this name cannot load these files of the source; None if they look right."""
    if engine.auto is not None and engine.auto.files and not _any_matches(names, engine.auto.files):
        return (
            f"the {name} engine takes {_forms(engine.auto.files)}; the source holds {names_of(names)}; write "
            "`engine: auto`, or name a source in one of these forms"
        )
    if engine.must_convert(names) or engine.takes_gguf:
        models = gguf_models(names)
        if missing := missing_parts(models):
            return f"a part of the model is missing: put {', '.join(missing[:3])} beside the others, under this name"
        if len({model_of(model) for model in models}) > 1:
            return f"the source holds several models; write one of these lines instead: {_lines(source, models)}"
    if engine.loads is not None and engine.file_to_load(names) is None:
        return (
            f"the {name} engine loads one {engine.loads} file, or the parts of one; the source holds "
            f"{names_of(names)}; name the file in `source:`"
        )
    return None


def no_candidate(spec: ModelSpec, engines: Mapping[str, Engine], names: Collection[str]) -> str:
    """Return why `auto` has no engine for these files: each engine's reason, and what to do."""
    reasons = [
        _why_not(spec, name, engine, engine.auto.files, gpus=engine.auto.gpus)
        for name, engine in sorted(engines.items())
        if engine.auto is not None
    ]
    return (
        f"no engine of `auto` serves its files ({names_of(names)}): {'; '.join(reasons)}. Change what its entry asks "
        "for, or name a source in one of these forms"
    )


def names_of(names: Collection[str]) -> str:
    """Return the first names, for a sentence."""
    shown = sorted(names)[:_NAMES_SHOWN]
    return ", ".join([*shown, "…"] if len(names) > len(shown) else shown)


def _lines(source: SourceRef, models: Collection[str]) -> str:
    """Return for each of these models the line of models.yaml that names it."""
    firsts = sorted({parts_of(model)[0] for model in models})
    base = f"hf://{source.repo}" if isinstance(source, HubSource) else str(source)
    revision = f"@{source.revision}" if isinstance(source, HubSource) and source.revision is not None else ""
    lines = [f"`source: {base}/{first}{revision}`" for first in firsts[:_LINES_SHOWN]]
    return ", ".join([*lines, "…"] if len(firsts) > len(lines) else lines)


def _why_not(spec: ModelSpec, name: str, engine: Engine, files: Collection[str], *, gpus: bool) -> str:
    if spec.task not in engine.tasks:
        return f"{name} does not serve `task: {spec.task}`"
    if spec.resources.gpus and not gpus:
        return f"{name} uses no GPUs"
    return f"{name} takes {_forms(files)}"


def _forms(files: Collection[str]) -> str:
    return " or ".join(files)


def _any_matches(names: Collection[str], patterns: Collection[str]) -> bool:
    return any(fnmatchcase(name.lower(), pattern) for name in names for pattern in patterns)


def _holds_weights(name: str) -> bool:
    path = PurePosixPath(name.lower())
    is_weights = path.suffix in (".safetensors", ".gguf")
    return is_weights and not any(fnmatchcase(path.name, pattern) for pattern in _ADAPTER_WEIGHTS)
