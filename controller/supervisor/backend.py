"""What the supervisor needs of the world outside, as a Protocol and the values that pass through it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from controller.docker.container import Container, Usage
from controller.docker.endings import Ending
from controller.registry import LiveRegistry, ModelSpec, Registry


@dataclass(frozen=True, kw_only=True)
class Amount:
    """What a model takes of the machine, or what there is; `gpus` None means not known, which bounds nothing."""

    memory_bytes: int
    gpus: int | None = 0

    def covers(self, need: Amount) -> bool:
        """Return whether `need` fits into this."""
        return need.memory_bytes <= self.memory_bytes and (self.gpus is None or (need.gpus or 0) <= self.gpus)

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
    """The answer of a model's /health, or its like.

    `is_refused`: no server listens on the port. `is_broken`: the connection ended without an answer, as Docker's own
    listener ends it if the server does not listen. `is_silent`: no answer came in time.

    `phase` is what the server does while it loads, `phases` the seconds of each once it is ready; only our runner
    reports them.
    """

    ready: bool
    is_refused: bool = False
    is_broken: bool = False
    is_silent: bool = False
    phase: str = ""
    phases: dict[str, Any] = field(default_factory=dict)

    @property
    def is_answer(self) -> bool:
        """Return whether there was an answer, whatever its meaning."""
        return not (self.is_refused or self.is_broken or self.is_silent)


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """Facts about a downloaded model; `parameters` and the fields below are empty until a conversion has run."""

    size_bytes: int
    content_hash: str
    modified_at_s: float
    files: tuple[str, ...]
    parameters: int | None = None
    context_length: int | None = None
    architecture: str = ""
    dtype: str = ""
    has_tools: bool = False
    """Whether its chat template has tools."""


@dataclass(frozen=True, kw_only=True)
class PreparationProgress:
    """How far a preparation is: `fraction` from 0 to 1 if it is known, bytes while downloading."""

    phase: str
    fraction: float | None = None
    done_bytes: int | None = None
    total_bytes: int | None = None


OnProgress = Callable[[PreparationProgress], None]


class Backend(Protocol):
    """What the supervisor needs of the world outside; `deployment.Deployment` is the real one."""

    def is_prepared(self, model_id: str) -> bool: ...

    def decided(self, spec: ModelSpec, /) -> ModelSpec: ...

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

    def service_texts(self, registry: Registry | LiveRegistry, /) -> dict[str, str]: ...

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
