"""Takes a changed models.yaml into force: only what changed is made anew, and nothing that is in flight is lost."""

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
    """Whose lifecycle follows; `supervisor.Supervisor` is the real one."""

    def drop(self, model_ids: Collection[str], /) -> None: ...

    def reopen(self) -> None: ...

    def drifted(self) -> set[str]: ...

    def change(self, models: Mapping[str, ModelSpec], /, *, remade: Collection[str]) -> None: ...


class Files(Protocol):
    """What writes the Compose file; `deployment.Deployment` is the real one."""

    def described(self, registry: Registry, /) -> dict[str, str]: ...

    def outdated(self) -> set[str]: ...

    def ports(self) -> dict[str, int]: ...

    def deploy(self, registry: Registry, /) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Changes:
    """What a reload comes to, by model ids. `remade`: their services changed; `adjusted`: what changed of them needs
    no new container."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    remade: tuple[str, ...] = ()
    adjusted: tuple[str, ...] = ()
    unchanged: tuple[str, ...] = ()


class Reloader:
    """One reload at a time. `offered` is the registry by which requests find their models; the one that is in force
    has also those that are offered no longer and still end what they have. Thread-safe."""

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
        self._turn = threading.Lock()
        # What keeps the file, as it is now, from being in force.
        self.problems: tuple[str, ...] = ()

    def reload(self, *, dry_run: bool = False, cures_drift: bool = True) -> Changes:
        """Read the file and work by it from now on; returns when removed models are gone and the others under way.

        Where it `cures_drift`, running models are made anew, too, whose container differs for another reason: a changed
        template or override, another image.

        Raises ConfigInvalid with every mistake, FilesUnwritable, and what asking Docker or stopping a model raises;
        then all is as it was, but that models that are new may be there.
        """
        with self._turn:
            try:
                found = self._read()
                changes = self._changes(found, self._drifted() if cures_drift else set())
                if not dry_run:
                    self._apply(found, changes)
                    self.problems = ()
                return changes
            except OrchestrarError as exc:
                if not dry_run:
                    self._note(exc)
                raise

    def follow(self, *, cures_drift: bool = False) -> None:
        """Reload for nobody who could be told: what keeps the file from being in force is in the log and `problems`."""
        with suppress(OrchestrarError):
            self.reload(cures_drift=cures_drift)

    def _note(self, exc: OrchestrarError) -> None:
        before = self.problems
        if isinstance(exc, ConfigInvalid):
            self.problems = tuple(exc.problems)
        else:
            self.problems = (f"models.yaml could not be taken into force, which is tried again: {exc.message}",)
        if self.problems != before:
            log.error("the models go on as they were:\n%s", "\n".join(self.problems))

    def _drifted(self) -> set[str]:
        return self._models.drifted() | self._files.outdated()

    def _changes(self, found: Registry, drifted: Collection[str]) -> Changes:
        before, after = self._in_force.models, found.models
        was, will_be = self._files.described(self._in_force), self._files.described(found)
        kept = [model_id for model_id in after if model_id in before]
        ports, written = self._files.ports(), {spec.port for spec in after.values()} - {None}
        # Somebody's port from now on, which one without a port of its own has to leave.
        ousted = {model_id for model_id in kept if after[model_id].port is None and ports.get(model_id) in written}
        remade = tuple(m for m in kept if was[m] != will_be[m] or m in drifted or m in ousted)
        adjusted = tuple(m for m in kept if m not in remade and before[m] != after[m])
        return Changes(
            added=tuple(model_id for model_id in after if model_id not in before),
            removed=tuple(model_id for model_id in before if model_id not in after),
            remade=remade,
            adjusted=adjusted,
            unchanged=tuple(model_id for model_id in kept if model_id not in remade and model_id not in adjusted),
        )

    def _apply(self, found: Registry, changes: Changes) -> None:
        self._take_templates()
        # First, so that a name that goes over to a new model is answered while the old one still drains.
        both = self._with_added(found, changes.added)
        self._files.deploy(both)
        self._in_force = both
        self._models.change(both.models, remade=())
        self._offered.now = found
        try:
            self._models.drop(changes.removed)
            if changes.removed:
                self._remove_leftovers(found.models.keys())
            moved = self._moved(found, changes.added)
            self._files.deploy(found)
        except BaseException:
            self._offered.now = both
            self._models.reopen()
            raise
        self._in_force = found
        self._models.change(found.models, remade=(*changes.remade, *moved))
        log.info("models.yaml was read anew: %s", changes)

    def _with_added(self, found: Registry, added: Collection[str]) -> Registry:
        """What is in force, and the models that are new; on a port of their own while theirs is another one's."""
        taken = set(self._files.ports().values())
        specs = (found.models[model_id] for model_id in added)
        news = {spec.id: replace(spec, port=None) if spec.port in taken else spec for spec in specs}
        return replace(self._in_force, models={**self._in_force.models, **news})

    def _moved(self, found: Registry, added: Collection[str]) -> list[str]:
        return [model_id for model_id in added if found.models[model_id] != self._in_force.models[model_id]]
