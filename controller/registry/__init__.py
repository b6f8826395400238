"""The model registry: config/models.yaml as frozen, validated values."""

from controller.registry.live import LiveRegistry
from controller.registry.load import load_registry
from controller.registry.spec import Defaults, GenerationDefaults, ModelSpec, Registry, Resources

__all__ = ["Defaults", "GenerationDefaults", "LiveRegistry", "ModelSpec", "Registry", "Resources", "load_registry"]
