"""Registries that are replaced while they are in use."""

from __future__ import annotations

from collections.abc import Mapping

from controller.errors import ModelNotFound
from controller.registry.spec import ModelSpec, Registry


class LiveRegistry:
    """Gives access to a `Registry` that may be replaced as a whole: readers see the old or the new one. Thread-safe."""

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
        """Return the model of this id; raises ModelNotFound if it has been removed."""
        spec = self.now.models.get(model_id)
        if spec is None:
            raise ModelNotFound(f"{model_id} was removed from models.yaml", param="model_id")
        return spec

    def resolve(self, name: str) -> ModelSpec:
        """Return the model of this id or alias; raises ModelNotFound, which lists the known ids."""
        return self.now.resolve(name)


class OfferedModels(LiveRegistry):
    """The models that a request may name."""


class DeployedModels(LiveRegistry):
    """The models that the Compose file describes: also those that a reload removes, until their requests have ended."""
