"""`POST /pull`, over a fake Docker."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from controller.app import create_app
from controller.errors import DockerTimeout, SourceError
from controller.registry import Registry
from controller.settings import Settings
from controller.supervisor import State
from controller.supervisor.backend import PreparationProgress
from tests.controller.supervisor.house import until
from tests.errorshape import check_error
from tests.fake_controller import make_controller
from tests.fakes import HANG_S, FakeBackend, make_container, make_spec
from tests.stub_runner import StubRunner, serving

HALF = PreparationProgress(phase="downloading", fraction=0.5, done_bytes=50, total_bytes=100)


@pytest.fixture
def backend() -> FakeBackend:
    backend = FakeBackend()
    backend.prepared_models = set()
    return backend


@pytest.fixture
def app(backend: FakeBackend, tmp_path: Path) -> Iterator[Flask]:
    settings = Settings(data_dir=tmp_path, compose_dir=tmp_path, project="test", max_in_flight=1)
    registry = Registry(models={"tiny": make_spec("tiny", aliases=("small",))})
    app = create_app(make_controller(settings, registry=registry, backend=backend))
    yield app
    app.extensions["controller"].close()


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


def pull(client: FlaskClient, model_id: str = "tiny", **fields: Any) -> Any:
    return client.post("/pull", data=json.dumps({"model_id": model_id, **fields}))


def events(data: bytes) -> list[dict[str, Any]]:
    lines = data.decode().splitlines()
    return [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]


def pause_preparation(backend: FakeBackend, then: Callable[[], None] = lambda: None) -> threading.Event:
    """Make preparations report once and wait; return the event that lets them go on."""
    gate = threading.Event()

    def slow(model_id: str, on_progress: Any, cancelled: Any) -> None:
        on_progress(HALF)
        assert gate.wait(HANG_S)
        then()

    backend.on_prepare = slow
    return gate


def test_a_pull_answers_when_all_is_here(client: FlaskClient, backend: FakeBackend) -> None:
    """By id or alias, any number of times; the model is not started."""
    for name in ("small", "tiny"):
        response = pull(client, name)
        assert 200 == response.status_code
        assert {"model_id": "tiny", "state": "stopped", "preparing": None} == response.get_json()
    assert ["prepare tiny", "prepare tiny"] == backend.calls


def test_a_pull_need_not_be_waited_for(client: FlaskClient, backend: FakeBackend) -> None:
    """With `wait` false the answer is 202 while it goes on, and 200 for a running model, which has everything."""
    gate = pause_preparation(backend)
    response = pull(client, wait=False)
    assert (202, "preparing") == (response.status_code, response.get_json()["state"])
    gate.set()
    until(lambda: client.get("/models").get_json()["models"][0]["state"] == "stopped")
    with serving(StubRunner) as port:
        backend.after_up = lambda container: make_container("tiny", id=container.id, port=port)
        assert 200 == client.post("/run", data=json.dumps({"model_id": "tiny"})).status_code
        response = pull(client, wait=False)
        assert (200, "ready") == (response.status_code, response.get_json()["state"])


def test_a_stream_reports_progress(client: FlaskClient, backend: FakeBackend) -> None:
    """Progress as it happens, then one event with `done`."""
    gate = pause_preparation(backend)
    response = pull(client, stream=True)
    assert "text/event-stream; charset=utf-8" == response.content_type
    stream = response.response
    half = {"phase": "downloading", "percent": 50, "done_bytes": 50, "total_bytes": 100}
    assert [half] == events(next(piece for piece in stream if events(piece)))
    gate.set()
    rest = [event for piece in stream for event in events(piece)]
    assert [{"done": True, "model_id": "tiny", "state": "stopped", "preparing": None}] == rest
    response.close()


@pytest.mark.parametrize("stream", [False, True])
def test_a_failure_is_an_answer(client: FlaskClient, backend: FakeBackend, stream: bool) -> None:
    """A failure before the first report has its own status, streamed or not, and gives its place back."""

    def fail(*_: Any) -> None:
        raise SourceError("the hub is away")

    backend.on_prepare = fail
    for _ in range(2):
        response = pull(client, stream=stream)
        error = check_error(response.status_code, response.get_json(), 503, "source_failed")
        assert "the hub is away" == error["message"]
    assert "failed" == client.get("/models").get_json()["models"][0]["state"]


def test_a_failure_in_the_middle_is_an_event(client: FlaskClient, backend: FakeBackend) -> None:
    """A stream that fails ends with one error event and has no `done`."""

    def fail() -> None:
        raise DockerTimeout("docker took too long")

    gate = pause_preparation(backend, fail)
    response = pull(client, stream=True)
    gate.set()
    *_, last = events(response.data)
    assert "docker_unavailable" == last["error"]["code"]
    assert response.headers["X-Request-Id"] == last["error"]["request_id"]


def test_an_unread_stream_gives_its_place_back(app: Flask, client: FlaskClient, backend: FakeBackend) -> None:
    """A stream that is closed before its end gives its place back, and the pull goes on."""
    gate = pause_preparation(backend)
    response = pull(client, stream=True)
    check_error((second := pull(client)).status_code, second.get_json(), 503, "overloaded")
    response.close()
    gate.set()
    until(lambda: app.extensions["orchestrar"].supervisor.view("tiny").state is State.STOPPED)
    assert 200 == pull(client).status_code


def test_only_models_of_the_registry_can_be_pulled(client: FlaskClient, backend: FakeBackend) -> None:
    """An unknown model is a 404 that says where models come from."""
    response = pull(client, "gpt-4")
    error = check_error(response.status_code, response.get_json(), 404, "model_not_found")
    assert "models.yaml" in error["message"]
    assert [] == backend.calls


def test_a_stream_needs_a_wait(client: FlaskClient) -> None:
    """A stream without a wait makes no sense, and is refused."""
    response = pull(client, stream=True, wait=False)
    check_error(response.status_code, response.get_json(), 400, "invalid_body")
