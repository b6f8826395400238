"""The project's Compose file, made from models.yaml, the templates and the models' files on disk."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from controller.deployment.engine_choice import Choice, EngineChoices
from controller.deployment.engines import Engine
from controller.deployment.memory_budget import Demand
from controller.deployment.ports import PortBook
from controller.deployment.preparation import Preparation
from controller.deployment.rendering.memory_limits import memory_limit_bytes
from controller.deployment.rendering.render import render
from controller.deployment.rendering.target import ModelFiles, Target
from controller.registry import DeployedModels, LiveRegistry, ModelSpec, Registry
from controller.system.files import write_atomic, writing_to


class ComposeFile:
    """Thread-safe, except that the caller must let only one `write` run at a time. No Docker, no network."""

    def __init__(
        self,
        path: Path,
        *,
        project: str,
        deployed_models: DeployedModels,
        engines: Mapping[str, Engine],
        preparation: Preparation,
        choices: EngineChoices,
        ports: PortBook,
        templates_dir: Path,
        stop_grace_s: int,
    ) -> None:
        self.folder = path.parent
        self._path = path
        self._project = project
        self._deployed_models = deployed_models
        self._engines = engines
        self._preparation = preparation
        self._choices = choices
        self._ports = ports
        self._templates_dir = templates_dir
        self._stop_grace_s = stop_grace_s
        self._service_texts: dict[str, str] | None = None
        """Of the file as it was last written; None before that."""
        self._configs: dict[str, tuple[Target, str]] = {}

    def write(self, registry: Registry) -> None:
        """Render the file for these models and replace it if it changed.

        Raises FilesUnwritable or ConfigInvalid; then the file has not changed.
        """
        with writing_to(self.folder):
            self._write(registry)

    def service_texts(self, registry: Registry | LiveRegistry) -> dict[str, str]:
        """Return the text of each model's service in a file of this registry; a reload compares them.

        Automatic ports are left out: a running model keeps its own.
        """
        return {spec.id: self._service_text(spec) for spec in registry.models.values()}

    def outdated(self) -> set[str]:
        """Return the models whose templates have changed since the file was written."""
        before = self._service_texts or {}
        now = self.service_texts(self._deployed_models)
        return {model_id for model_id, text in now.items() if before.get(model_id, text) != text}

    def ports(self) -> dict[str, int]:
        """Return the host port of each model."""
        return self._assigned(self._deployed_models)

    def demand(self, model_id: str) -> Demand:
        """Return what the model's service may take, according to the file."""
        # Without the port: like all that its container does not see, it does not change what the model needs.
        target = self._target(self._choices.of(self._deployed_models.spec(model_id)), 0)
        return Demand(
            model_id=model_id,
            config=self._config_of(target),
            limit_bytes=memory_limit_bytes(target, self._engines[target.spec.engine]),
            gpus=target.spec.resources.gpus,
        )

    def _config_of(self, target: Target) -> str:
        """Return a hash of what its service is made of. Every start asks, so only a changed target is rendered."""
        entry = self._configs.get(target.spec.id)
        if entry is None or entry[0] != target:
            entry = (target, hashlib.sha256(self._render([target]).encode()).hexdigest()[:16])
            self._configs[target.spec.id] = entry
        return entry[1]

    def _service_text(self, spec: ModelSpec) -> str:
        choice = self._choices.of(spec)
        if choice.spec.engine not in self._engines:
            return ""
        return self._render([self._target(choice, spec.port or 0)])

    def _write(self, registry: Registry) -> None:
        ports = self._assigned(registry)
        text = self._render([self._target(self._choices.of(s), ports[s.id]) for s in registry.models.values()])
        is_new = not self._path.exists() or self._path.read_text(encoding="utf-8") != text
        if is_new:
            write_atomic(self._path, text)
        if is_new or self._service_texts is None:
            self._service_texts = self.service_texts(registry)
            self._configs.clear()

    def _assigned(self, registry: Registry | LiveRegistry) -> dict[str, int]:
        return self._ports.assign({spec.id: spec.port for spec in registry.models.values()})

    def _render(self, targets: list[Target]) -> str:
        return render(
            targets,
            project=self._project,
            stop_grace_s=self._stop_grace_s,
            templates_dir=self._templates_dir,
            max_cpus=float(os.cpu_count() or 1),
        )

    def _target(self, choice: Choice, port: int) -> Target:
        spec, source = choice.spec, choice.source
        facts = self._preparation.facts(spec, source)
        # If a user starts the service by hand before the download, Docker's error shows this path.
        path = source.path if source else self.folder / "not-downloaded-yet" / spec.id
        files = ModelFiles(
            source=path,
            source_is_folder=path.is_dir() if source else True,
            parts=source.files if source and source.is_selection else (),
            source_bytes=source.total_bytes if source else None,
            file_to_load=self._engines[spec.engine].file_to_load(source.files) if source else None,
            volume=self._preparation.volume(spec, source),
            weights_bytes=facts.weights_bytes if facts else (source.total_bytes if source else None),
            parameters=facts.parameters if facts else 0,
            kv_bytes_per_token=facts.kv_bytes_per_token if facts else 0,
            context_length=facts.context_length if facts else None,
        )
        return Target(spec=spec, port=port, files=files)
