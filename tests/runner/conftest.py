from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from runner.api.routes import create_app
from runner.loading import Loader
from runner.settings import RunnerSettings
from tests.runner.fake_engine import FakeEmbedder, FakeEngine


class _Handler(WSGIRequestHandler):
    """Passes the client's socket to the app, as gunicorn does."""

    def make_environ(self) -> dict[str, Any]:
        return {**super().make_environ(), "gunicorn.socket": self.connection}

    def log(self, type: str, message: str, *args: Any) -> None:
        return None


@dataclass
class RunnerServer:
    """A runner with a fake engine on a real socket."""

    engine: FakeEngine | FakeEmbedder
    loader: Loader
    server: BaseWSGIServer

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.server.server_port, timeout=20)

    def request(
        self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any, http.client.HTTPMessage]:
        """Send one request on its own connection; return the status, the parsed JSON and the headers."""
        connection = self.connect()
        try:
            data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
            connection.request(method, path, data, headers or {})
            response = connection.getresponse()
            return response.status, json.loads(response.read()), response.headers
        finally:
            connection.close()

    def stream(
        self, body: dict[str, Any], path: str = "/inference"
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        connection = self.connect()
        connection.request("POST", path, json.dumps({**body, "stream": True}))
        return connection, connection.getresponse()


@pytest.fixture
def serve() -> Iterator[Callable[..., RunnerServer]]:
    """Return a function that serves a fake engine, and waits until it is loaded unless `wait` is false."""
    running: list[RunnerServer] = []

    def start(engine: FakeEngine | FakeEmbedder, *, wait: bool = True, **settings: Any) -> RunnerServer:
        runner_settings = RunnerSettings(model_id="fake", model_path=Path("/nowhere"), **settings)
        loader = Loader(engine, on_failure=lambda _message: None)
        server = make_server(
            "127.0.0.1",
            0,
            create_app(engine, runner_settings, loader, silence_s=0.05),
            threaded=True,
            request_handler=_Handler,
        )
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        loader.start()
        if wait:
            assert loader.load_end.wait(20)
        running.append(RunnerServer(engine, loader, server))
        return running[-1]

    yield start
    for runner in running:
        runner.server.shutdown()
        runner.server.server_close()
