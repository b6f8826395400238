"""The world outside as the supervisor needs it, and the values that it speaks in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from controller.docker.container import Container, Usage
from controller.docker.endings import Ending
from controller.registry import LiveRegistry, Registry


@dataclass(frozen=True, kw_only=True)
class Amount:
    """What a model takes of the machine, or what there is of it; `gpus` None in what there is = not known, no bound."""

    memory_bytes: int
    gpus: int | None = 0

    def covers(self, needed: Amount) -> bool:
        """Whether `needed` fits into this."""
        return needed.memory_bytes <= self.memory_bytes and (self.gpus is None or (needed.gpus or 0) <= self.gpus)

    def plus(self, other: Amount) -> Amount:
        return Amount(
            memory_bytes=self.memory_bytes + other.memory_bytes,
            gpus=None if self.gpus is None else self.gpus + (other.gpus or 0),
        )

    def minus(self, other: Amount) -> Amount:
        return Amount(
            memory_bytes=self.memory_bytes - other.memory_bytes,
            gpus=None if self.gpus is None else self.gpus - (other.gpus or 0),
        )


@dataclass(frozen=True, kw_only=True)
class Readiness:
    """One look at a model's /health, or its like: `refused` means that nobody listens on its port, `broken` that the
    connection ended without an answer (so Docker's own listener does for a server that does not listen), `silent` that
    its answer did not come in time.

    `phase` is what it does while it loads, `phases` the seconds each took once it is ready; only our runner tells them.
    """

    ready: bool
    refused: bool = False
    broken: bool = False
    silent: bool = False
    phase: str = ""
    phases: dict[str, Any] = field(default_factory=dict)

    @property
    def answered(self) -> bool:
        """Whether anything came back, of whatever meaning."""
        return not (self.refused or self.broken or self.silent)


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """A downloaded model's; `parameters` and what follows are None, empty or false until a conversion has told them."""

    size_bytes: int
    content_hash: str
    modified_at_s: float
    files: tuple[str, ...]
    parameters: int | None = None
    context_length: int | None = None
    architecture: str = ""
    dtype: str = ""
    has_tools: bool = False
    """Whether its chat template knows tools."""


@dataclass(frozen=True, kw_only=True)
class PreparationProgress:
    """How far a preparation is: `fraction` from 0 to 1 where it can be told, bytes while downloading."""

    phase: str
    fraction: float | None = None
    done_bytes: int | None = None
    total_bytes: int | None = None


OnProgress = Callable[[PreparationProgress], None]


class Backend(Protocol):
    """The world outside as the supervisor needs it; `deployment.Deployment` is the real one."""

    def is_prepared(self, model_id: str) -> bool: ...

    def require_image(self, model_id: str) -> None: ...

    def prepare(self, model_id: str, on_progress: OnProgress, cancelled: Callable[[], bool]) -> None: ...

    def facts(self, model_id: str) -> ModelFacts | None: ...

    def find_all(self) -> list[Container]: ...

    def find(self, model_id: str) -> Container | None: ...

    def inspect(self, container_id: str) -> Container | None: ...

    def ending(self, container_id: str) -> Ending: ...

    def resume(self, model_id: str) -> Container | None: ...

    def up(self, model_id: str) -> Container: ...

    def stop(self, container_id: str, *, grace_s: int) -> None: ...

    def logs(self, container: Container) -> list[str]: ...

    def described(self, registry: Registry | LiveRegistry, /) -> dict[str, str]: ...

    def write(self) -> None: ...

    def deploy(self, registry: Registry, /) -> None: ...

    def outdated(self) -> set[str]: ...

    def working_set(self, container_id: str) -> int | None: ...

    def room(self, used_bytes: int) -> Amount: ...

    def needs(self, model_id: str, *, limit_bytes: int | None = None) -> Amount: ...

    def observe(self, model_id: str, used_bytes: int) -> None: ...

    def usage(self, container_ids: list[str]) -> dict[str, Usage]: ...

    def drifted(self, containers: list[Container]) -> set[str]: ...

    def delete_files(self, model_id: str) -> int: ...

    def ports(self) -> dict[str, int]: ...
