"""The composition root: all parts below the API, made and connected; for the server and for commands without one."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Protocol

from controller.deployment.compose_file import ComposeFile
from controller.deployment.deployment import Deployment
from controller.deployment.engine_choice import EngineChoices
from controller.deployment.engine_templates import read_engines
from controller.deployment.engines import Engine, is_pinned
from controller.deployment.image_build import ImageBuild
from controller.deployment.images import Images
from controller.deployment.memory_budget import MemoryBudget
from controller.deployment.ports import PortBook
from controller.deployment.preparation import Preparation
from controller.deployment.removed_models import RemovedModels, retire_removed_models
from controller.docker.health import DockerHealth
from controller.docker.service import DockerService
from controller.errors import ConfigInvalid, OrchestrarError
from controller.proxy.forwarding import ModelProxy
from controller.proxy.runner_client import RunnerClient
from controller.registry import DeployedModels, LiveRegistry, ModelSpec, OfferedModels, Registry, load_registry
from controller.registry.file_watch import FileWatch, Stamp, stamp_of
from controller.registry.reload import Files, Reloader
from controller.settings import ROOT, Settings
from controller.sources import SourceStore
from controller.supervisor import Backend, DeadModelCheck, DockerEventFollower, HangWatch, Monitor, Supervisor
from controller.supervisor.watching.hangs import SILENCE_S

log = logging.getLogger(__name__)

# An engine that is busy answers within this time.
DOCKER_PATIENCE_S = 5.0


def read_registry(settings: Settings) -> Registry:
    """Read models.yaml and check it against the templates and our own port, too. Raises ConfigInvalid."""
    engines = read_engines(settings.templates_dir)
    registry = load_registry(settings.config_file, engines=engines)
    problems = []
    for spec in registry.models.values():
        if spec.port == settings.port:
            problems.append(f"{spec.id}.port: is the controller's own; write another")
        problems += _engine_problems(spec, engines)
    if problems:
        raise ConfigInvalid([f"{settings.config_file}: models.{problem}" for problem in problems])
    return registry


def _engine_problems(spec: ModelSpec, engines: Mapping[str, Engine]) -> list[str]:
    if spec.candidates and spec.args:
        return [f"{spec.id}.args: are for one engine; write which one, as `engine: {spec.engine}`, or remove them"]
    names = [candidate.engine for candidate in spec.candidates] or [spec.engine]
    return [problem for name in names for problem in _problems_of(spec.on(name, ""), engines[name])]


def _problems_of(spec: ModelSpec, engine: Engine) -> list[str]:
    if spec.chat_template is not None and not engine.chat_template:
        return [f"{spec.id}.chat_template: the {spec.engine} engine takes none; remove it, or write another engine"]
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


def _templates(models: LiveRegistry) -> dict[Path, Stamp]:
    """Return the chat templates in force, each with the stamp of the content that was read."""
    templates = (spec.chat_template for spec in models.models.values())
    return {template.path: template.stamp for template in templates if template is not None}


def check(settings: Settings) -> None:
    """Raise ConfigInvalid for what would keep a controller with these settings from starting."""
    read_registry(settings)
    _port_book(settings)


def _port_book(settings: Settings) -> PortBook:
    return PortBook(settings.data_dir / "ports.json", first=settings.first_model_port)


def compose_deployment(
    settings: Settings,
    deployed_models: DeployedModels,
    docker: DockerService,
    engines: Mapping[str, Engine],
    *,
    builds_images: bool = False,
) -> Deployment:
    """Make the Compose project that serves these models; it follows when they or the engines change.

    `builds_images`: images that are built from this checkout are built when a model first needs them.
    """
    store = SourceStore(settings.data_dir / "sources", hub_endpoint=settings.hub_endpoint, hub_token=settings.hub_token)
    facts_dir = settings.data_dir / "prepared"
    preparation = Preparation(store=store, docker=docker, engines=engines, facts_dir=facts_dir)
    choices = EngineChoices(preparation=preparation, engines=engines, folder=facts_dir)
    ports = _port_book(settings)
    return Deployment(
        deployed_models=deployed_models,
        docker=docker,
        images=Images(
            docker=docker,
            engines=engines,
            api_url=f"http://{settings.host}:{settings.port}",
            builder=ImageBuild(ROOT) if builds_images else None,
        ),
        preparation=preparation,
        choices=choices,
        ports=ports,
        file=ComposeFile(
            settings.compose_dir / "compose.yaml",
            project=docker.project,
            deployed_models=deployed_models,
            engines=engines,
            preparation=preparation,
            choices=choices,
            ports=ports,
            templates_dir=settings.templates_dir,
            stop_grace_s=settings.stop_grace_s,
        ),
        memory_budget=MemoryBudget(
            fixed_bytes=lambda: deployed_models.memory_budget_bytes,
            docker_bytes=docker.memory_bytes,
            path=settings.data_dir / "working_sets.json",
        ),
    )


class Watch(Protocol):
    """Something that goes on beside the requests until it is closed."""

    def start(self) -> None: ...

    def close(self) -> None: ...


class Containers(Backend, Files, Protocol):
    """The models' containers and the file that describes them; `deployment.Deployment` is the real one."""

    def write(self) -> None: ...

    def end_orphans(self) -> None: ...


class Controller:
    """The parts of one controller. Nothing is written and nothing runs before `start`."""

    def __init__(
        self,
        settings: Settings,
        deployed_models: DeployedModels,
        *,
        models_file: Stamp,
        engines: dict[str, Engine],
        containers: Containers,
        docker: DockerService,
        runner_client: RunnerClient,
    ) -> None:
        """`models_file` stamps the models.yaml that was read; `engines` is updated at each reload."""
        self.settings = settings
        self.engines: Mapping[str, Engine] = engines
        self.offered_models = OfferedModels(deployed_models.now)
        self.containers = containers
        self.docker_health = DockerHealth(docker.version)
        self.runner_client = runner_client
        probe = runner_client.probe
        self.supervisor = Supervisor(self.offered_models.models, containers, probe, stop_grace_s=settings.stop_grace_s)
        self.proxy = ModelProxy(
            self.supervisor,
            runner_client,
            DeadModelCheck(self.supervisor, containers, probe).wait_for_verdict,
            max_in_flight=settings.max_in_flight,
        )
        self.reloader = Reloader(
            lambda: read_registry(settings),
            offered=self.offered_models,
            models=self.supervisor,
            files=containers,
            remove_leftovers=lambda model_ids: retire_removed_models(docker, lambda: model_ids),
            take_templates=lambda: engines.update(read_engines(settings.templates_dir)),
        )
        self._removed_models = RemovedModels(docker, lambda: deployed_models.models.keys())
        self._monitor = Monitor(self.supervisor, tidy=runner_client.tidy)
        follower = DockerEventFollower(self.supervisor, after_gap=self._remove_leftovers)
        self._watches: tuple[Watch, ...] = (
            docker.follow(follower.note, follower.note_gap),
            follower,
            HangWatch(self.supervisor, containers, partial(probe, timeout_s=SILENCE_S), self.proxy.abort),
            FileWatch(
                settings.config_file.name,
                lambda: {settings.config_file: models_file, **_templates(self.offered_models)},
                self.reloader.follow,
                lambda: bool(self.reloader.problems),
            ),
        )

    def start(self) -> None:
        """Remove the containers of removed models, write the Compose file, adopt what runs and start the threads.

        Waits a bounded time for Docker; the threads do later what Docker keeps from being done now. Raises
        FilesUnwritable when the Compose file cannot be written.
        """
        can_look = self._can_look()
        if can_look:
            self._remove_leftovers()
        self.containers.write()
        if can_look:
            self._adopt()
        self._monitor.start()
        for watch in self._watches:
            watch.start()

    def abort_requests(self) -> None:
        """End all requests in flight, each with an error that says why: the grace period of a shutdown is over."""
        # Each aborted answer frees a place at its model, and no request may take it any more.
        self.supervisor.close()
        self.proxy.abort_all()

    def close(self) -> None:
        """End the threads and close kept connections; running models stay up."""
        for watch in self._watches:
            watch.close()
        self.supervisor.close()
        self.runner_client.close()

    def _can_look(self) -> bool:
        """Return whether Docker answers now. If it does not, each look at it would delay the start until a deadline."""
        report = self.docker_health.report(DOCKER_PATIENCE_S)
        if not report["ok"]:
            log.warning("Docker does not answer; running models will be adopted later: %s", report["reason"])
        return bool(report["ok"])

    def _remove_leftovers(self) -> bool:
        """Remove containers that no model needs. Return False if Docker failed and this has to be tried again."""
        try:
            self._removed_models.retire()
            self.containers.end_orphans()
        except OrchestrarError as exc:
            log.warning("containers that no model needs could not be removed yet: %s", exc.message)
            return False
        return True

    def _adopt(self) -> None:
        try:
            self.containers.room(0)  # asked now, so that the first start need not wait for the answer
            self.supervisor.adopt()
        except OrchestrarError as exc:
            log.warning("running models could not be adopted yet: %s", exc.message)


def compose(settings: Settings) -> Controller:
    """Make the parts of a controller whose models run on Docker. Raises ConfigInvalid for a wrong models.yaml."""
    # Taken before the file is read: an edit from here on is noticed as one.
    models_file = stamp_of(settings.config_file)
    engines = read_engines(settings.templates_dir)
    deployed_models = DeployedModels(read_registry(settings))
    docker = DockerService(project=settings.project, compose_dir=settings.compose_dir)
    return Controller(
        settings,
        deployed_models,
        models_file=models_file,
        engines=engines,
        containers=compose_deployment(settings, deployed_models, docker, engines, builds_images=True),
        docker=docker,
        runner_client=RunnerClient(),
    )
