"""What models.yaml has to know of an engine. The engine's template holds these facts; `load_registry` receives them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from pydantic import BaseModel, ConfigDict


class AutoRule(BaseModel):
    """Which models `engine: auto` gives to an engine that serves their task."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    order: int
    """Of the engines that take a model, the one with the lowest number gets it."""
    sources: list[str] = ["*"]
    """Patterns of the sources that it takes, lower case and without a revision, such as `*.gguf`."""
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
