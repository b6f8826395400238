"""The parts below the API, put together: shared by the server and the commands that work without one."""

from __future__ import annotations

from controller.deployment import Deployment
from controller.docker_service import DockerService
from controller.ports import PortBook
from controller.preparation import Preparation
from controller.registry import Registry, load_registry
from controller.rendering import engine_names
from controller.settings import Settings
from controller.sources import SourceStore


def read_registry(settings: Settings) -> Registry:
    """models.yaml, checked against the engines that have a template. Raises ConfigInvalid."""
    return load_registry(settings.config_file, engines=engine_names(settings.templates_dir))


def compose_deployment(settings: Settings, registry: Registry, docker: DockerService) -> Deployment:
    """The project on Docker for this registry."""
    store = SourceStore(settings.data_dir / "sources", hub_endpoint=settings.hub_endpoint, hub_token=settings.hub_token)
    return Deployment(
        registry=registry,
        docker=docker,
        preparation=Preparation(store=store, docker=docker, facts_dir=settings.data_dir / "prepared"),
        ports=PortBook(settings.data_dir / "ports.json", first=settings.first_model_port),
        compose_file=settings.compose_dir / "compose.yaml",
        templates_dir=settings.templates_dir,
        stop_grace_s=settings.stop_grace_s,
    )
