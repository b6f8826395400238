"""Which engine serves a model with `engine: auto`, and why: decided from its files and from what engines refused."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from controller import __version__
from controller.deployment.engines import Engine
from controller.deployment.model_files import no_candidate, no_model, unfit_files
from controller.deployment.preparation import PREPARED_FORMAT, Preparation
from controller.errors import SourceError
from controller.registry import ModelSpec
from controller.registry.spec import Candidate
from controller.sources import StoredSource
from controller.system.files import write_atomic

log = logging.getLogger(__name__)

SUFFIX = ".refusals.json"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A model on the engine that serves it, or is to be tried next; `problem` says why none can serve it."""

    spec: ModelSpec
    source: StoredSource | None
    """The model's files; None before the download."""
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """What an engine said when it refused a model, and by which image."""

    reason: str
    image_id: str


class EngineChoices:
    """Chooses the first candidate that takes the files and has not refused them. No Docker, no network. Thread-safe.

    Only refusals are kept, in one file for each model, for the very content, candidates and version that were refused:
    so the choice is the same in every process and after a restart, and other files or a new version decide again.
    """

    def __init__(self, *, preparation: Preparation, engines: Mapping[str, Engine], folder: Path) -> None:
        self._preparation = preparation
        self._engines = engines
        self._folder = folder

    def of(self, spec: ModelSpec) -> Choice:
        """Return the choice for a model as its entry describes it, or as an earlier choice has left it."""
        try:
            source = self._preparation.find_source(spec)
        except (SourceError, OSError):
            source = None  # Its files have disappeared: its start reports that.
        if source is None:
            return Choice(spec=spec, source=None)
        spec = replace(spec, source_choice=source.choice)
        if (problem := no_model(source.files)) is not None:
            return _without_engine(spec, source, problem)
        if not spec.candidates:
            engine = self._engines.get(spec.engine)
            problem = unfit_files(spec.engine, engine, spec.source, source.files) if engine is not None else None
            return _without_engine(spec, source, problem) if problem else Choice(spec=spec, source=source)
        return self._first(spec, source)

    def refuse(self, spec: ModelSpec, engine: str, refusal: Refusal) -> None:
        """Keep it that this engine cannot serve the model's files. Raises OSError."""
        source = self._preparation.find_source(spec)
        if source is not None:
            key = _key(spec, source)
            self._write(spec.id, key, {**self._read(spec.id, key), engine: refusal})

    def reconsider(self, spec: ModelSpec, image_id: Callable[[str], str | None]) -> None:
        """Forget the refusals by images that have been replaced since; `image_id` returns an engine's.

        Raises OSError.
        """
        source = self._preparation.find_source(spec)
        if source is None or not (refusals := self._read(spec.id, key := _key(spec, source))):
            return
        valid = {name: refusal for name, refusal in refusals.items() if image_id(name) in (None, refusal.image_id)}
        if valid != refusals:
            self._write(spec.id, key, valid)

    def forget(self, model_id: str) -> None:
        """Forget what was refused: the model's files are deleted."""
        self._file(model_id).unlink(missing_ok=True)

    def _first(self, spec: ModelSpec, source: StoredSource) -> Choice:
        candidates = [c for c in spec.candidates if c.engine in self._engines and c.takes(source.files)]
        if not candidates:
            return _without_engine(spec, source, no_candidate(spec, self._engines, source.files))
        refusals = self._read(spec.id, _key(spec, source))
        for candidate in candidates:
            if candidate.engine not in refusals:
                name = candidate.engine
                spec = spec.on(name, _reason(candidate, source, refusals))
                problem = unfit_files(name, self._engines[name], spec.source, source.files)
                return _without_engine(spec, source, problem) if problem else Choice(spec=spec, source=source)
        return _without_engine(spec.on(candidates[-1].engine, ""), source, _all_refused(refusals))

    def _read(self, model_id: str, key: str) -> dict[str, Refusal]:
        """Return what was refused under this key; nothing if the file cannot be read, and then it is tried again."""
        try:
            record = json.loads(self._file(model_id).read_text(encoding="utf-8"))
            refusals = {str(name): Refusal(**entry) for name, entry in record["refusals"].items()}
            return refusals if record["key"] == key else {}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as exc:
            log.warning("%s cannot be read, so its engine is chosen again: %s", self._file(model_id), exc)
            return {}

    def _write(self, model_id: str, key: str, refusals: Mapping[str, Refusal]) -> None:
        record = {"key": key, "refusals": {name: asdict(refusal) for name, refusal in refusals.items()}}
        write_atomic(self._file(model_id), json.dumps(record, indent=2) + "\n")

    def _file(self, model_id: str) -> Path:
        return self._folder / f"{model_id}{SUFFIX}"


def _without_engine(spec: ModelSpec, source: StoredSource, problem: str) -> Choice:
    """Return the choice of a model that cannot be served; its reason shows that without a request, too."""
    return Choice(spec=replace(spec, engine_reason=problem), source=source, problem=problem)


def _key(spec: ModelSpec, source: StoredSource) -> str:
    """Return what a refusal holds for: the files, what the entry asks of an engine, and our own version."""
    asked = (spec.task, spec.dtype, spec.context_length, spec.resources.gpus, [c.engine for c in spec.candidates])
    text = json.dumps([source.content_hash, asked, PREPARED_FORMAT, __version__])
    return hashlib.sha256(text.encode()).hexdigest()


def _reason(candidate: Candidate, source: StoredSource, refusals: Mapping[str, Refusal]) -> str:
    if refusals:
        return f"{_sentences(refusals)}; {candidate.engine} serves it"
    name = next((name for name in sorted(source.files) if candidate.takes([name])), source.path.name)
    return f"it is the first engine of `auto` that takes {name}"


def _all_refused(refusals: Mapping[str, Refusal]) -> str:
    return (
        f"no engine of `auto` can serve it: {_sentences(refusals)}. Another form of the same model (its safetensors "
        "instead of a GGUF, or another quantisation) may work; otherwise choose another model"
    )


def _sentences(refusals: Mapping[str, Refusal]) -> str:
    return "; ".join(f"{name}: {refusal.reason.rstrip('.')}" for name, refusal in refusals.items())
