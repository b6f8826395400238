"""The project's Compose file: what it says of each model, as models.yaml and the files on disk are now."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from controller.deployment.engines import Engine
from controller.deployment.memory_budget import Demand
from controller.deployment.ports import PortBook
from controller.deployment.preparation import Preparation
from controller.deployment.rendering.memory_limits import memory_limit_bytes
from controller.deployment.rendering.render import render
from controller.deployment.rendering.target import ModelFiles, Target
from controller.errors import SourceError
from controller.registry import DeployedModels, LiveRegistry, ModelSpec, Registry
from controller.system.files import write_atomic, writing_to


class ComposeFile:
    """Thread-safe, but that one `write` at a time is the caller's business. No Docker, no network."""

    def __init__(
        self,
        path: Path,
        *,
        project: str,
        deployed: DeployedModels,
        engines: Mapping[str, Engine],
        preparation: Preparation,
        ports: PortBook,
        templates_dir: Path,
        stop_grace_s: int,
    ) -> None:
        self.folder = path.parent
        self._path = path
        self._project = project
        self._deployed = deployed
        self._engines = engines
        self._preparation = preparation
        self._ports = ports
        self._templates_dir = templates_dir
        self._stop_grace_s = stop_grace_s
        self._said: dict[str, str] | None = None
        self._configs: dict[str, tuple[Target, str]] = {}

    def write(self, registry: Registry) -> None:
        """Render the file for these models and replace it when it changed.

        Raises FilesUnwritable or ConfigInvalid, and then the file is as it was.
        """
        with writing_to(self.folder):
            self._write(registry)

    def described(self, registry: Registry | LiveRegistry) -> dict[str, str]:
        """What the file says of each model, were this the registry; tells which services a change makes anew.

        Ports that are chosen are left out: what runs keeps its own.
        """
        return {
            spec.id: self._render([self._target(spec, spec.port or 0)]) if spec.engine in self._engines else ""
            for spec in registry.models.values()
        }

    def outdated(self) -> set[str]:
        """The models of which the templates say something else than the file does, which was written before them."""
        said = self._said or {}
        return {
            model_id for model_id, text in self.described(self._deployed).items() if said.get(model_id, text) != text
        }

    def ports(self) -> dict[str, int]:
        """The host port of each model."""
        return self._assigned(self._deployed)

    def demand(self, model_id: str) -> Demand:
        """What the model's service may take, as the file says it."""
        # The port is no part of what a model is, nor is anything else that its container does not see.
        target = self._target(self._deployed.spec(model_id), 0)
        return Demand(
            model_id=model_id,
            config=self._config_of(target),
            limit_bytes=memory_limit_bytes(target, self._engines[target.spec.engine]),
            gpus=target.spec.resources.gpus,
        )

    def _config_of(self, target: Target) -> str:
        """A hash of what its service is made of; rendered anew only for what changed, since every start asks."""
        known = self._configs.get(target.spec.id)
        if known is None or known[0] != target:
            known = (target, hashlib.sha256(self._render([target]).encode()).hexdigest()[:16])
            self._configs[target.spec.id] = known
        return known[1]

    def _write(self, registry: Registry) -> None:
        ports = self._assigned(registry)
        text = self._render([self._target(spec, ports[spec.id]) for spec in registry.models.values()])
        is_new = not self._path.exists() or self._path.read_text(encoding="utf-8") != text
        if is_new:
            write_atomic(self._path, text)
        if is_new or self._said is None:
            self._said = self.described(registry)
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

    def _target(self, spec: ModelSpec, port: int) -> Target:
        try:
            stored = self._preparation.stored(spec)
        except SourceError:
            stored = None  # its files were there and are not now; the start says so, other models go on
        facts = self._preparation.facts(spec, stored)
        # A path that names the reason, for whoever starts the service by hand before the download.
        path = stored.path if stored else self.folder / "not-downloaded-yet" / spec.id
        files = ModelFiles(
            source=path,
            source_is_folder=path.is_dir() if stored else True,
            source_bytes=stored.total_bytes if stored else None,
            loaded=self._engines[spec.engine].loaded(stored.files) if stored else None,
            volume=self._preparation.volume(spec, stored),
            weights_bytes=facts.weights_bytes if facts else (stored.total_bytes if stored else None),
            parameters=facts.parameters if facts else 0,
            kv_bytes_per_token=facts.kv_bytes_per_token if facts else 0,
            context_length=facts.context_length if facts else None,
        )
        return Target(spec=spec, port=port, files=files)
