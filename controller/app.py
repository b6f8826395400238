"""The WSGI application."""

from __future__ import annotations

import os

from flask import Flask

from controller.api import errors, guard, native, ollama, openai
from controller.api.services import Services
from controller.composition import Controller, compose
from controller.proxy.runner_response import READ_TIMEOUT_S
from controller.proxy.stream_pump import StreamPump
from controller.server.disconnects import ClientWatcher
from controller.settings import Settings


def create_app(controller: Controller | None = None) -> Flask:
    """Start the controller, by default the one that the environment describes, and return the application before it.

    Raises ConfigInvalid for a wrong environment or models.yaml, and FilesUnwritable.
    """
    controller = controller or compose(Settings.from_environ(os.environ))
    controller.start()
    app = Flask("orchestrar", static_folder=None)
    # One more than allowed: werkzeug silently cuts a body without a length at this bound, and it would seem complete.
    app.config["MAX_CONTENT_LENGTH"] = controller.settings.max_body_bytes + 1
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.extensions["controller"] = controller
    app.extensions["orchestrar"] = Services(
        registry=controller.offered_models,
        engines=controller.engines,
        reloader=controller.reloader,
        supervisor=controller.supervisor,
        proxy=controller.proxy,
        facts=controller.containers.facts,
        docker_health=controller.docker_health,
        clients=ClientWatcher(),
        pump=StreamPump(silence_s=READ_TIMEOUT_S),
    )
    guard.install(app, controller.settings.allowed_hosts)
    errors.install(app)
    for routes in (native, openai, ollama):
        app.register_blueprint(routes.blueprint)
    return app
