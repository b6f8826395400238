"""The validated registry: frozen values, every default filled in."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from fnmatch import fnmatchcase
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

from controller.errors import ModelNotFound
from controller.registry.file.problems import closest, quoted
from controller.registry.file_watch import Stamp
from controller.registry.source_ref import SourceRef

Task: TypeAlias = Literal["chat", "completion", "embedding"]
Dtype: TypeAlias = Literal["auto", "bfloat16", "float16", "float32"]

_MOST_IDS_LISTED = 20


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What a model's container may use; memory None = estimate it."""

    cpus: float = 2.0
    memory_bytes: int | None = None
    gpus: int = 0


@dataclass(frozen=True, kw_only=True)
class GenerationDefaults:
    """Parameters for requests that do not set them; None (or no stop) = not set."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None

    def set_values(self) -> dict[str, Any]:
        """Return only those that are set, ready for JSON."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values["stop"] = list(self.stop) or None
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """An engine that `engine: auto` may mean for a model."""

    engine: str
    max_concurrency: int
    """The model's, if this engine serves it."""
    files: tuple[str, ...] = ()
    """Patterns of file names, lower case, one of which it needs; empty if it takes any files."""

    def takes(self, names: Collection[str]) -> bool:
        """Tell whether one of these files has a name that it needs."""
        return not self.files or any(fnmatchcase(name.lower(), p) for name in names for p in self.files)


@dataclass(frozen=True, kw_only=True)
class ChatTemplateFile:
    """A user's own chat template, as its file was when models.yaml was read."""

    path: Path
    sha256: str
    """Of the content: another content is another template."""
    has_tools: bool = False
    """Whether it has tools, in a form in which our runner recognises calls."""
    stamp: Stamp = field(default=None, compare=False)


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """One model as models.yaml describes it, with the file's defaults filled in.

    `engine: auto` has `candidates`; then `engine` is the one by the source's name, until the files have decided.
    """

    id: str
    source: SourceRef
    engine: str
    engine_reason: str = "models.yaml names it"
    candidates: tuple[Candidate, ...] = ()
    """The engines that may serve it, in this order; empty if its entry names the engine."""
    source_choice: str = ""
    """Which of several files of the source were downloaded, and why; empty before that, and without a choice."""
    aliases: tuple[str, ...] = ()
    task: Task = "chat"
    preload: bool = False
    pinned: bool = False
    sha256: str | None = None
    port: int | None = None
    dtype: Dtype = "auto"
    context_length: int | None = None
    chat_template: ChatTemplateFile | None = None
    """Instead of the model's own; None if that is used."""
    max_concurrency: int = 8
    max_queue: int = 64
    generation: GenerationDefaults = GenerationDefaults()
    resources: Resources = Resources()
    env: Mapping[str, str] = field(default_factory=dict, hash=False)
    image: str | None = None
    args: tuple[str, ...] = ()
    idle_timeout_s: float = 900.0
    start_timeout_s: float = 120.0
    max_wait_s: float = 60.0
    min_residency_s: float = 10.0

    def on(self, engine: str, reason: str) -> ModelSpec:
        """Return the model with this one of its candidates as the engine, for this reason."""
        places = {candidate.engine: candidate.max_concurrency for candidate in self.candidates}
        max_concurrency = places.get(engine, self.max_concurrency)
        return replace(self, engine=engine, engine_reason=reason, max_concurrency=max_concurrency)


@dataclass(frozen=True, kw_only=True)
class Registry:
    """All models by id, in the file's order; memory_budget_bytes None = auto."""

    memory_budget_bytes: int | None = None
    models: Mapping[str, ModelSpec] = field(default_factory=lambda: MappingProxyType({}), hash=False)

    def resolve(self, name: str) -> ModelSpec:
        """Return the model of this id or alias. Raises ModelNotFound, which lists the known ids."""
        spec = self.models.get(name)
        if spec is None:
            spec = next((model for model in self.models.values() if name in model.aliases), None)
        if spec is None:
            raise ModelNotFound(self._unknown(name), param="model_id", details={"known": sorted(self.models)})
        return spec

    def _unknown(self, name: str) -> str:
        ids = sorted(self.models)
        id_list = ", ".join(ids[:_MOST_IDS_LISTED]) + (", …" if len(ids) > _MOST_IDS_LISTED else "")
        guess = closest(name, [*ids, *(alias for model in self.models.values() for alias in model.aliases)])
        hint = f" (did you mean {guess}?)" if guess else ""
        return f"there is no model {quoted(name)}{hint}; known models: {id_list}"


class LiveRegistry:
    """Gives access to a `Registry` that may be replaced as a whole: readers see the old or the new one. Thread-safe."""

    def __init__(self, registry: Registry) -> None:
        self.now = registry

    @property
    def models(self) -> Mapping[str, ModelSpec]:
        """All models by id, in the file's order."""
        return self.now.models

    @property
    def memory_budget_bytes(self) -> int | None:
        """None = auto."""
        return self.now.memory_budget_bytes

    def spec(self, model_id: str) -> ModelSpec:
        """Return the model of this id; raises ModelNotFound if it has been removed."""
        spec = self.now.models.get(model_id)
        if spec is None:
            raise ModelNotFound(f"{model_id} was removed from models.yaml", param="model_id")
        return spec

    def resolve(self, name: str) -> ModelSpec:
        """Return the model of this id or alias; raises ModelNotFound, which lists the known ids."""
        return self.now.resolve(name)


class OfferedModels(LiveRegistry):
    """The models that a request may name."""


class DeployedModels(LiveRegistry):
    """The models that the Compose file describes: also those that a reload removes, until their requests have ended."""
