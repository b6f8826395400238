"""The composition root."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from functools import partial

from flask import Flask

from controller.api import errors, guard, native, ollama, openai
from controller.api.services import Services, Watch
from controller.composition import compose_deployment, read_registry
from controller.deployment.engine_templates import read_engines
from controller.deployment.removed_models import RemovedModels, retire_removed_models
from controller.docker.health import DockerHealth
from controller.docker.service import DockerService
from controller.errors import OrchestrarError
from controller.proxy.forwarding import ModelProxy
from controller.proxy.runner_client import RunnerClient
from controller.proxy.runner_response import READ_TIMEOUT_S
from controller.proxy.stream_pump import StreamPump
from controller.registry import DeployedModels, OfferedModels, Registry
from controller.registry.file_watch import FileWatch, stamp_of
from controller.registry.reload import Reloader
from controller.server.disconnects import ClientWatcher
from controller.settings import Settings
from controller.supervisor import Backend, DeadModelCheck, DockerEventFollower, HangWatch, Monitor, Supervisor
from controller.supervisor.watching.hangs import SILENCE_S

log = logging.getLogger(__name__)

# A busy engine answers within that.
LOOK_PATIENCE_S = 5.0


def create_app(
    settings: Settings | None = None,
    *,
    registry: Registry | None = None,
    backend: Backend | None = None,
    proxy: RunnerClient | None = None,
) -> Flask:
    """The WSGI application, with its threads running; whatever is not given is the real thing.

    Raises ConfigInvalid for a wrong environment or models.yaml.
    """
    settings = settings or Settings.from_environ(os.environ)
    # Before it is read: what is written from here on is another file.
    stamp = stamp_of(settings.config_file)
    engines = read_engines(settings.templates_dir)
    offered = OfferedModels(registry or read_registry(settings))
    # What runs; a model that goes is no longer offered while it still ends what it has.
    deployed = DeployedModels(offered.now)
    docker = DockerService(project=settings.project, compose_dir=settings.compose_dir)
    leftovers = RemovedModels(docker, lambda: deployed.models.keys())
    is_real = backend is None
    engine = DockerHealth(docker.version)
    can_look = backend is not None or _answers(engine)
    if backend is None:
        deployment = compose_deployment(settings, deployed, docker, engines)
        tidy = partial(_tidy, leftovers, deployment.end_orphans)
        if can_look:
            tidy()
        deployment.write()
        backend = deployment
    proxy = proxy or RunnerClient()
    supervisor = Supervisor(offered.models, backend, proxy.probe, stop_grace_s=settings.stop_grace_s)
    relay = ModelProxy(
        supervisor,
        proxy,
        DeadModelCheck(supervisor, backend, proxy.probe).wait_for_verdict,
        max_in_flight=settings.max_in_flight,
    )
    if can_look:
        _take_over(supervisor, backend)
    Monitor(supervisor, tidy=proxy.tidy).start()
    reloader = Reloader(
        lambda: read_registry(settings),
        offered=offered,
        models=supervisor,
        files=backend,
        remove_leftovers=lambda known: retire_removed_models(docker, lambda: known) if is_real else None,
        take_templates=lambda: engines.update(read_engines(settings.templates_dir)),
    )
    watches = _watch(supervisor, backend, proxy, relay, docker, tidy) if is_real else ()
    watches += (FileWatch(settings.config_file, stamp, reloader.follow, lambda: bool(reloader.problems)),)
    watches[-1].start()

    app = Flask("orchestrar", static_folder=None)
    # One more than allowed: a body without a length is cut at this bound in silence, and would pass for a whole one.
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body_bytes + 1
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.extensions["orchestrar"] = Services(
        registry=offered,
        engines=engines,
        reloader=reloader,
        supervisor=supervisor,
        proxy=relay,
        runner_client=proxy,
        facts=backend.facts,
        docker_health=engine,
        clients=ClientWatcher(),
        pump=StreamPump(silence_s=READ_TIMEOUT_S),
        watches=watches,
    )
    guard.install(app, settings.allowed_hosts)
    errors.install(app)
    app.register_blueprint(native.blueprint)
    app.register_blueprint(openai.blueprint)
    app.register_blueprint(ollama.blueprint)
    return app


def _answers(engine: DockerHealth) -> bool:
    """Whether Docker can be looked at now. Where it cannot, each look would keep the controller from serving until its
    deadline; the watch begun later makes up for them."""
    report = engine.report(LOOK_PATIENCE_S)
    if not report["ok"]:
        log.warning("running models will be looked for later: %s", report["reason"])
    return bool(report["ok"])


def _tidy(leftovers: RemovedModels, end_orphans: Callable[[], None]) -> bool:
    """End what runs for nobody; False when Docker kept it from that, and it is to be tried again."""
    try:
        leftovers.retire()
        end_orphans()
    except OrchestrarError as exc:
        log.warning("containers that nobody needs could not be looked for: %s", exc.message)
        return False
    return True


def _take_over(supervisor: Supervisor, backend: Backend) -> None:
    """Adopt what runs already."""
    try:
        # The first start is not to pay for the engine's answer.
        backend.room(0)
        supervisor.adopt()
    except OrchestrarError as exc:
        log.warning("running models could not be looked for: %s", exc.message)


def _watch(
    supervisor: Supervisor,
    backend: Backend,
    proxy: RunnerClient,
    relay: ModelProxy,
    docker: DockerService,
    tidy: Callable[[], bool],
) -> tuple[Watch, ...]:
    """Follow what happens to containers outside of our doing, until closed."""
    follower = DockerEventFollower(supervisor, after_gap=tidy)
    hangs = HangWatch(supervisor, backend, partial(proxy.probe, timeout_s=SILENCE_S), relay.abort)
    feed = docker.follow(follower.note, follower.note_gap)
    watches: tuple[Watch, ...] = (feed, follower, hangs)
    for watch in watches:
        watch.start()
    return watches
