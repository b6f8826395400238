"""Registries that are replaced while they are in use, for readers that look at them again and again."""

from __future__ import annotations

from collections.abc import Mapping

from controller.errors import ModelNotFound
from controller.registry.spec import ModelSpec, Registry


class LiveRegistry:
    """A `Registry` that can be replaced as a whole; each look sees one or the other, never a mixture. Thread-safe."""

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
        """The model of this id; ModelNotFound where there is none any more."""
        found = self.now.models.get(model_id)
        if found is None:
            raise ModelNotFound(f"{model_id} was removed from models.yaml", param="model_id")
        return found

    def resolve(self, name: str) -> ModelSpec:
        """The model of this id or alias; ModelNotFound lists the known ids."""
        return self.now.resolve(name)


class OfferedModels(LiveRegistry):
    """The models that a request may name."""


class DeployedModels(LiveRegistry):
    """The models that the Compose file describes: also those that a reload removes, until their requests have ended."""
