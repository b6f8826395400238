"""A whole controller on a real socket, over a fake Docker and small real servers in the engines' places."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import ollama
import pytest
from flask import Flask
from werkzeug.serving import make_server

from controller.app import create_app
from controller.registry import GenerationDefaults, Registry
from controller.settings import Settings
from tests.controller.api.ollama.engine import Engine
from tests.fake_controller import make_controller
from tests.fakes import FakeBackend, make_container, make_spec
from tests.stub_runner import serving


class Backend(FakeBackend):
    def ports(self) -> dict[str, int]:
        return {"tiny": 9001, "plain": 9002, "vectors": 9003}


@pytest.fixture
def engine() -> Iterator[type[Engine]]:
    """Serve a new engine class for each test: its attributes have the requests that came."""

    class Fresh(Engine):
        requests: ClassVar = []
        client_left: ClassVar = threading.Event()

    with serving(Fresh) as port:
        Fresh.port = port
        yield Fresh


@pytest.fixture
def backend(engine: type[Engine]) -> FakeBackend:
    backend = Backend()
    backend.after_up = lambda container: make_container(container.model_id, id=container.id, port=engine.port)
    return backend


@pytest.fixture
def app(backend: FakeBackend, tmp_path: Path) -> Iterator[Flask]:
    defaults = GenerationDefaults(temperature=0.5, stop=("END",), max_tokens=9)
    models = {
        "tiny": make_spec("tiny", aliases=("small",), generation=defaults, context_length=2048),
        "plain": make_spec("plain", task="completion"),
        "vectors": make_spec("vectors", task="embedding"),
    }
    settings = Settings(data_dir=tmp_path, compose_dir=tmp_path, project="test")
    app = create_app(make_controller(settings, registry=Registry(models=models), backend=backend))
    yield app
    app.extensions["controller"].close()


@pytest.fixture
def url(app: Flask) -> Iterator[str]:
    """Serve the controller; its address."""
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def client(url: str) -> Iterator[ollama.Client]:
    with ollama.Client(url) as client:
        yield client
