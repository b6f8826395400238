"""The model registry: config/models.yaml as frozen, validated values."""

from controller.registry.load import load_registry
from controller.registry.spec import (
    DeployedModels,
    GenerationDefaults,
    LiveRegistry,
    ModelSpec,
    OfferedModels,
    Registry,
    Resources,
)

__all__ = [
    "DeployedModels",
    "GenerationDefaults",
    "LiveRegistry",
    "ModelSpec",
    "OfferedModels",
    "Registry",
    "Resources",
    "load_registry",
]
