"""A whole controller with containers in memory."""

from __future__ import annotations

from collections.abc import Callable

from controller.composition import Controller, read_registry
from controller.deployment.engine_templates import read_engines
from controller.docker.container import Container
from controller.docker.events import Event, EventFeed
from controller.docker.service import DockerService
from controller.proxy.runner_client import RunnerClient
from controller.registry import DeployedModels, Registry
from controller.registry.file_watch import stamp_of
from controller.settings import Settings
from tests.fakes import FakeBackend


class QuietFeed(EventFeed):
    """A feed without events, which runs no command."""

    def start(self) -> None: ...

    def close(self) -> None: ...


class QuietDocker(DockerService):
    """An engine that answers and has no containers."""

    def version(self) -> str:
        return "fake"

    def models(self) -> list[Container]:
        return []

    def follow(self, on_event: Callable[[Event], None], on_gap: Callable[[], None]) -> EventFeed:
        return QuietFeed(self.project, on_event, on_gap)


def make_controller(
    settings: Settings,
    *,
    registry: Registry | None = None,
    backend: FakeBackend,
    proxy: RunnerClient | None = None,
) -> Controller:
    """Make a controller with these containers in memory; its models are those of `registry`, else of models.yaml."""
    models_file = stamp_of(settings.config_file)
    return Controller(
        settings,
        DeployedModels(registry or read_registry(settings)),
        models_file=models_file,
        engines=read_engines(settings.templates_dir),
        containers=backend,
        docker=QuietDocker(project=settings.project, compose_dir=settings.compose_dir),
        runner_client=proxy or RunnerClient(),
    )
