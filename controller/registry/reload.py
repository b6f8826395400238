"""Applies a changed models.yaml: restarts only what has changed, and loses no request in flight."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Protocol

from controller.errors import ConfigInvalid, OrchestrarError
from controller.registry import ModelSpec, OfferedModels, Registry

log = logging.getLogger(__name__)


class Models(Protocol):
    """Runs the models; `supervisor.Supervisor` is the real one."""

    def drop(self, model_ids: Collection[str], /) -> None: ...

    def reopen(self) -> None: ...

    def drifted(self) -> set[str]: ...

    def change(self, models: Mapping[str, ModelSpec], /, *, remade: Collection[str]) -> None: ...


class Files(Protocol):
    """Writes the Compose file; `deployment.Deployment` is the real one."""

    def service_texts(self, registry: Registry, /) -> dict[str, str]: ...

    def outdated(self) -> set[str]: ...

    def ports(self) -> dict[str, int]: ...

    def deploy(self, registry: Registry, /) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Changes:
    """The result of a reload, by model ids.

    `remade`: their services have changed; `adjusted`: their changes need no new container.
    """

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    remade: tuple[str, ...] = ()
    adjusted: tuple[str, ...] = ()
    unchanged: tuple[str, ...] = ()


class Reloader:
    """Reloads one at a time. Requests find their models in `offered`; the registry in force also has the models that
    are no longer offered and still finish their requests. Thread-safe."""

    def __init__(
        self,
        read: Callable[[], Registry],
        *,
        offered: OfferedModels,
        models: Models,
        files: Files,
        remove_leftovers: Callable[[Collection[str]], object],
        take_templates: Callable[[], object] = lambda: None,
    ) -> None:
        self._read = read
        self._offered = offered
        self._in_force = offered.now
        self._models = models
        self._files = files
        self._remove_leftovers = remove_leftovers
        self._take_templates = take_templates
        self._reload_lock = threading.Lock()
        # Why the file as it is now is not in force.
        self.problems: tuple[str, ...] = ()

    def reload(self, *, dry_run: bool = False, cures_drift: bool = True) -> Changes:
        """Read the file and apply it; returns when the removed models are gone and the other changes have begun.

        With `cures_drift` also restart running models whose container differs for another reason: a changed template or
        override, or another image.

        Raises ConfigInvalid with every mistake, FilesUnwritable, and the errors of Docker queries and of stopping a
        model; then nothing has changed, except that new models may already exist.
        """
        with self._reload_lock:
            try:
                registry = self._read()
                changes = self._changes(registry, self._drifted() if cures_drift else set())
                if not dry_run:
                    self._apply(registry, changes)
                    self.problems = ()
                return changes
            except OrchestrarError as exc:
                if not dry_run:
                    self._note(exc)
                raise

    def follow(self, *, cures_drift: bool = False) -> None:
        """Reload without raising: the log and `problems` say why the file is not in force."""
        with suppress(OrchestrarError):
            self.reload(cures_drift=cures_drift)

    def _note(self, exc: OrchestrarError) -> None:
        before = self.problems
        if isinstance(exc, ConfigInvalid):
            self.problems = tuple(exc.problems)
        else:
            self.problems = (f"models.yaml could not be applied and will be tried again: {exc.message}",)
        if self.problems != before:
            log.error("models.yaml is not in force, the models stay as they are:\n%s", "\n".join(self.problems))

    def _drifted(self) -> set[str]:
        return self._models.drifted() | self._files.outdated()

    def _changes(self, registry: Registry, drifted: Collection[str]) -> Changes:
        before, after = self._in_force.models, registry.models
        old_services, new_services = self._files.service_texts(self._in_force), self._files.service_texts(registry)
        in_both = [model_id for model_id in after if model_id in before]
        ports, fixed_ports = self._files.ports(), {spec.port for spec in after.values()} - {None}
        # A port that the file now gives to another model: a model without a port of its own has to leave it.
        ousted = {m for m in in_both if after[m].port is None and ports.get(m) in fixed_ports}
        remade = tuple(m for m in in_both if old_services[m] != new_services[m] or m in drifted or m in ousted)
        adjusted = tuple(m for m in in_both if m not in remade and before[m] != after[m])
        return Changes(
            added=tuple(model_id for model_id in after if model_id not in before),
            removed=tuple(model_id for model_id in before if model_id not in after),
            remade=remade,
            adjusted=adjusted,
            unchanged=tuple(model_id for model_id in in_both if model_id not in remade and model_id not in adjusted),
        )

    def _apply(self, registry: Registry, changes: Changes) -> None:
        self._take_templates()
        # First of all, so that a name that a new model takes over is served while the old model still drains.
        both = self._with_added(registry, changes.added)
        self._files.deploy(both)
        self._in_force = both
        self._models.change(both.models, remade=())
        self._offered.now = registry
        try:
            self._models.drop(changes.removed)
            if changes.removed:
                self._remove_leftovers(registry.models.keys())
            moved_ids = self._moved_ids(registry, changes.added)
            self._files.deploy(registry)
        except BaseException:
            self._offered.now = both
            self._models.reopen()
            raise
        self._in_force = registry
        self._models.change(registry.models, remade=(*changes.remade, *moved_ids))
        log.info("models.yaml was reloaded: %s", changes)

    def _with_added(self, registry: Registry, new_ids: Collection[str]) -> Registry:
        """Return the registry in force with the new models; their ports are automatic while another model has them."""
        ports_in_use = set(self._files.ports().values())
        specs = (registry.models[model_id] for model_id in new_ids)
        new_models = {spec.id: replace(spec, port=None) if spec.port in ports_in_use else spec for spec in specs}
        return replace(self._in_force, models={**self._in_force.models, **new_models})

    def _moved_ids(self, registry: Registry, new_ids: Collection[str]) -> list[str]:
        """Return the new models that must leave the automatic port which `_with_added` gave them."""
        return [model_id for model_id in new_ids if registry.models[model_id] != self._in_force.models[model_id]]
