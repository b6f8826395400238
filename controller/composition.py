"""The parts below the API, put together: shared by the server and the commands that work without one."""

from __future__ import annotations

from collections.abc import Mapping

from controller.deployment.compose_file import ComposeFile
from controller.deployment.deployment import Deployment
from controller.deployment.engine_templates import read_engines
from controller.deployment.engines import Engine, is_pinned
from controller.deployment.images import Images
from controller.deployment.memory_budget import Budget
from controller.deployment.ports import PortBook
from controller.deployment.preparation import Preparation
from controller.docker.service import DockerService
from controller.errors import ConfigInvalid
from controller.registry import DeployedModels, ModelSpec, Registry, load_registry
from controller.settings import Settings
from controller.sources import SourceStore


def read_registry(settings: Settings) -> Registry:
    """models.yaml, checked against what the file alone cannot tell: templates, our port. Raises ConfigInvalid."""
    engines = read_engines(settings.templates_dir)
    registry = load_registry(settings.config_file, engines=engines)
    problems = []
    for spec in registry.models.values():
        if spec.port == settings.port:
            problems.append(f"{spec.id}.port: is the controller's own; write another")
        problems += _engine_problems(spec, engines[spec.engine])
    if problems:
        raise ConfigInvalid([f"{settings.config_file}: models.{problem}" for problem in problems])
    return registry


def _engine_problems(spec: ModelSpec, engine: Engine) -> list[str]:
    if engine.own:
        return [f"{spec.id}.args: the {spec.engine} engine takes none; remove it"] if spec.args else []
    if spec.image is None and engine.image is None:
        text = f"the {spec.engine} engine brings none; write `image: name@sha256:…`, see docs/engines.md"
        return [f"{spec.id}.image: {text}"]
    if spec.image is not None and not is_pinned(spec.image):
        text = (
            f'is the text "{spec.image}", and a tag may mean another image tomorrow; write {spec.image}@sha256:… with '
            "the digest that `docker pull` prints, or the id of an image on this machine (`docker images --no-trunc`)"
        )
        return [f"{spec.id}.image: {text}"]
    return []


def check(settings: Settings) -> None:
    """Raise ConfigInvalid for what would keep a controller with these settings from starting."""
    read_registry(settings)
    _port_book(settings)


def _port_book(settings: Settings) -> PortBook:
    return PortBook(settings.data_dir / "ports.json", first=settings.first_model_port)


def compose_deployment(
    settings: Settings, deployed: DeployedModels, docker: DockerService, engines: Mapping[str, Engine]
) -> Deployment:
    """The project on Docker for this registry, as it and the engines may come to change."""
    store = SourceStore(settings.data_dir / "sources", hub_endpoint=settings.hub_endpoint, hub_token=settings.hub_token)
    preparation = Preparation(store=store, docker=docker, engines=engines, facts_dir=settings.data_dir / "prepared")
    ports = _port_book(settings)
    return Deployment(
        deployed=deployed,
        engines=engines,
        docker=docker,
        images=Images(docker=docker, engines=engines, api_url=f"http://{settings.host}:{settings.port}"),
        preparation=preparation,
        ports=ports,
        file=ComposeFile(
            settings.compose_dir / "compose.yaml",
            project=docker.project,
            deployed=deployed,
            engines=engines,
            preparation=preparation,
            ports=ports,
            templates_dir=settings.templates_dir,
            stop_grace_s=settings.stop_grace_s,
        ),
        budget=Budget(
            fixed_bytes=lambda: deployed.memory_budget_bytes,
            engine_bytes=docker.memory_bytes,
            path=settings.data_dir / "working_sets.json",
        ),
    )
