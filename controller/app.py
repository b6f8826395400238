"""The composition root."""

from __future__ import annotations

import logging
import os
from functools import partial

from flask import Flask

from controller.api import errors, guard, native, ollama, openai
from controller.api.services import Services, Watch
from controller.clients import ClientWatcher
from controller.composition import compose_deployment, read_registry
from controller.docker_service import DockerService
from controller.docker_service.health import EngineHealth
from controller.engines import Engine
from controller.errors import OrchestrarError
from controller.leftovers import Leftovers, retire_leftovers
from controller.proxy import Proxy
from controller.pump import Pump
from controller.registry import LiveRegistry, Registry
from controller.relay import Relay
from controller.reloading import Reloader
from controller.rendering import read_engines
from controller.settings import Settings
from controller.supervisor import Aftermath, Backend, Follower, HangWatch, Monitor, Supervisor
from controller.supervisor.hangs import SILENCE_S
from controller.upstream import READ_TIMEOUT_S
from controller.watch_file import FileWatch

log = logging.getLogger(__name__)


def create_app(
    settings: Settings | None = None,
    *,
    registry: Registry | None = None,
    backend: Backend | None = None,
    proxy: Proxy | None = None,
) -> Flask:
    """The WSGI application, with its threads running; whatever is not given is the real thing.

    Raises ConfigInvalid for a wrong environment or models.yaml.
    """
    settings = settings or Settings.from_environ(os.environ)
    engines = read_engines(settings.templates_dir)
    offered = LiveRegistry(registry or read_registry(settings))
    deployed = LiveRegistry(offered.now)
    docker = DockerService(project=settings.project, compose_dir=settings.compose_dir)
    leftovers = Leftovers(docker, lambda: deployed.models.keys())
    is_real = backend is None
    if backend is None:
        deployment = compose_deployment(settings, deployed, docker, engines)
        leftovers.retire()
        deployment.write()
        backend = deployment
    proxy = proxy or Proxy()
    supervisor = Supervisor(offered.models, backend, proxy.probe, stop_grace_s=settings.stop_grace_s)
    relay = Relay(
        supervisor,
        proxy,
        Aftermath(supervisor, backend, proxy.probe).settle,
        max_in_flight=settings.max_in_flight,
    )
    _start(supervisor, offered.now, backend)
    reloader = Reloader(
        lambda: _read_anew(settings, engines),
        offered=offered,
        deployed=deployed,
        models=supervisor,
        files=backend,
        remove_leftovers=lambda known: retire_leftovers(docker, known) if is_real else None,
    )
    watches = _watch(supervisor, backend, proxy, relay, docker, leftovers) if is_real else ()
    watches += (FileWatch(settings.config_file, reloader.follow),)
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
        relay=relay,
        proxy=proxy,
        facts=backend.facts,
        engine=EngineHealth(docker.version),
        clients=ClientWatcher(),
        pump=Pump(silence_s=READ_TIMEOUT_S),
        watches=watches,
    )
    guard.install(app, settings.allowed_hosts)
    errors.install(app)
    app.register_blueprint(native.blueprint)
    app.register_blueprint(openai.blueprint)
    app.register_blueprint(ollama.blueprint)
    return app


def _read_anew(settings: Settings, engines: dict[str, Engine]) -> Registry:
    """models.yaml as it is now, with the templates that it may name."""
    registry = read_registry(settings)
    engines.update(read_engines(settings.templates_dir))
    return registry


def _start(supervisor: Supervisor, registry: Registry, backend: Backend) -> None:
    """Take over what runs already, then keep watch; a Docker that is away now is looked for again by the watch."""
    try:
        # The first start is not to pay for the engine's answer.
        backend.room(0)
        supervisor.adopt()
    except OrchestrarError as exc:
        log.warning("running models could not be looked for: %s", exc.message)
    for spec in registry.models.values():
        if spec.preload:
            supervisor.run(spec.id, wait=False)
    Monitor(supervisor).start()


def _watch(
    supervisor: Supervisor, backend: Backend, proxy: Proxy, relay: Relay, docker: DockerService, leftovers: Leftovers
) -> tuple[Watch, ...]:
    """Follow what happens to containers outside of our doing, until closed."""
    follower = Follower(supervisor, after_gap=leftovers.retire)
    hangs = HangWatch(supervisor, backend, partial(proxy.probe, timeout_s=SILENCE_S), relay.cut)
    feed = docker.follow(follower.note, follower.note_gap)
    watches: tuple[Watch, ...] = (feed, follower, hangs)
    for watch in watches:
        watch.start()
    return watches
