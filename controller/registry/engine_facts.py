"""What models.yaml has to know of an engine. The engine's template holds these facts; `load_registry` receives them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from pydantic import BaseModel, ConfigDict


class AutoRule(BaseModel):
    """Which models `engine: auto` gives to an engine that serves their task."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    order: int
    """The engines that take a model are tried in this order, the lowest number first."""
    sources: list[str] = ["*"]
    """Patterns of the sources that it takes, as long as only their names are known: lower case, without a revision."""
    files: list[str] = []
    """Patterns of file names, lower case, one of which it needs among the downloaded files; none means any file."""
    gpus: bool = True
    """Whether it also takes models that have GPUs."""


class EngineFacts(Protocol):
    """The part of an engine's facts that decides what an entry of models.yaml means."""

    @property
    def tasks(self) -> Collection[str]: ...

    @property
    def max_concurrency(self) -> int: ...

    @property
    def auto(self) -> AutoRule | None: ...
