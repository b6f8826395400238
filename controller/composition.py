"""The parts below the API, put together: shared by the server and the commands that work without one."""

from __future__ import annotations

from controller.deployment import Deployment
from controller.docker_service import DockerService
from controller.errors import ConfigInvalid
from controller.ports import PortBook
from controller.preparation import Preparation
from controller.registry import Registry, load_registry
from controller.rendering import engine_names
from controller.settings import Settings
from controller.sources import SourceStore

# Their runner takes its settings from the environment alone.
OWN_ENGINES = frozenset({"openvino", "transformers"})


def read_registry(settings: Settings) -> Registry:
    """models.yaml, checked against what the file alone cannot tell: templates, our port. Raises ConfigInvalid."""
    registry = load_registry(settings.config_file, engines=engine_names(settings.templates_dir))
    problems = []
    for spec in registry.models.values():
        if spec.port == settings.port:
            problems.append(f"{spec.id}.port: is the controller's own; write another")
        if spec.args and spec.engine in OWN_ENGINES:
            problems.append(f"{spec.id}.args: the {spec.engine} engine takes none; remove it")
    if problems:
        raise ConfigInvalid([f"{settings.config_file}: models.{problem}" for problem in problems])
    return registry


def check(settings: Settings) -> None:
    """Raise ConfigInvalid for what would keep a controller with these settings from starting."""
    read_registry(settings)
    _port_book(settings)


def _port_book(settings: Settings) -> PortBook:
    return PortBook(settings.data_dir / "ports.json", first=settings.first_model_port)


def compose_deployment(settings: Settings, registry: Registry, docker: DockerService) -> Deployment:
    """The project on Docker for this registry."""
    store = SourceStore(settings.data_dir / "sources", hub_endpoint=settings.hub_endpoint, hub_token=settings.hub_token)
    return Deployment(
        registry=registry,
        docker=docker,
        preparation=Preparation(store=store, docker=docker, facts_dir=settings.data_dir / "prepared"),
        ports=_port_book(settings),
        compose_file=settings.compose_dir / "compose.yaml",
        templates_dir=settings.templates_dir,
        stop_grace_s=settings.stop_grace_s,
    )
