"""Takes a changed models.yaml into force: only what changed is made anew, and nothing that is in flight is lost."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from controller.errors import ConfigInvalid, OrchestrarError
from controller.registry import LiveRegistry, ModelSpec, Registry

log = logging.getLogger(__name__)


class Models(Protocol):
    """Whose lifecycle follows; `supervisor.Supervisor` is the real one."""

    def drop(self, model_ids: Collection[str], /) -> None: ...

    def change(self, models: Mapping[str, ModelSpec], /, *, remade: Collection[str]) -> None: ...


class Files(Protocol):
    """What writes the Compose file; `deployment.Deployment` is the real one."""

    def described(self, registry: Registry | LiveRegistry, /) -> dict[str, str]: ...

    def write(self) -> None: ...


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
    """One reload at a time. `offered` is the registry by which requests find their models, `deployed` that of the
    Compose file: a model that goes is no longer offered while it still ends what it has. Thread-safe."""

    def __init__(
        self,
        read: Callable[[], Registry],
        *,
        offered: LiveRegistry,
        deployed: LiveRegistry,
        models: Models,
        files: Files,
        remove_leftovers: Callable[[Collection[str]], object],
    ) -> None:
        self._read = read
        self._offered = offered
        self._deployed = deployed
        self._models = models
        self._files = files
        self._remove_leftovers = remove_leftovers
        self._turn = threading.Lock()
        self.problems: tuple[str, ...] = ()

    def reload(self, *, dry_run: bool = False) -> Changes:
        """Read the file and work by it from now on; returns when removed models are gone and the others under way.

        Raises ConfigInvalid with every mistake, and everything stays as it was; and what stopping a model raises.
        """
        with self._turn:
            try:
                found = self._read()
            except ConfigInvalid as exc:
                if not dry_run:
                    self.problems = tuple(exc.problems)
                raise
            changes = self._changes(found)
            if not dry_run:
                self._apply(found, changes)
                self.problems = ()
            return changes

    def follow(self) -> None:
        """Reload because the file has changed: what is wrong with it goes into the log and into `problems`."""
        try:
            self.reload()
        except ConfigInvalid as exc:
            log.error("models.yaml is broken, the models go on as they were:\n%s", exc.message)
        except OrchestrarError as exc:
            log.error("models.yaml could not be followed, POST /reload tries again: %s", exc.message)

    def _changes(self, found: Registry) -> Changes:
        before, after = self._deployed.models, found.models
        was, will_be = self._files.described(self._deployed), self._files.described(found)
        kept = [model_id for model_id in after if model_id in before]
        remade = tuple(model_id for model_id in kept if was[model_id] != will_be[model_id])
        adjusted = tuple(m for m in kept if m not in remade and before[m] != after[m])
        return Changes(
            added=tuple(model_id for model_id in after if model_id not in before),
            removed=tuple(model_id for model_id in before if model_id not in after),
            remade=remade,
            adjusted=adjusted,
            unchanged=tuple(model_id for model_id in kept if model_id not in remade and model_id not in adjusted),
        )

    def _apply(self, found: Registry, changes: Changes) -> None:
        before = self._offered.now
        self._offered.now = found
        try:
            self._models.drop(changes.removed)
            self._remove_leftovers(found.models.keys())
        except BaseException:
            self._offered.now = before
            raise
        self._deployed.now = found
        self._files.write()
        self._models.change(found.models, remade=changes.remade)
        log.info("models.yaml was read anew: %s", changes)
