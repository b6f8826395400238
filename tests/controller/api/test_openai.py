"""The OpenAI API of the controller, over a fake Docker and a small real server in the runner's place."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from controller.app import create_app
from controller.registry import Registry
from controller.settings import Settings
from tests.errorshape import check_error
from tests.fake_controller import make_controller
from tests.fakes import FakeBackend, make_container, make_spec
from tests.stub_runner import StubRunner, serving

CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
MESSAGES = [{"role": "user", "content": "hi"}]
ODD = b' {"x" :1.50e+1, "y": "\\u00e4", "z":[]}\n'
STREAM = b'data: {"choices": []}\n\n:\n\ndata: [DONE]\n\n'


class Runner(StubRunner):
    """Repeats the request; a prompt may ask for another answer."""

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        body = json.loads(raw)
        if body.get("prompt") == "die":
            self.send_whole(200, STREAM[:10], "text/event-stream", length=len(STREAM))
            self.close_connection = True
        elif body.get("prompt") in ("400", "500", "503"):
            error = {"message": "the model's own words", "type": "t", "code": "own_code", "param": "prompt"}
            self.send_whole(int(body["prompt"]), json.dumps({"error": error}).encode())
        elif body.get("prompt") == "odd json":
            self.send_whole(200, ODD)
        elif body.get("prompt") == "garbage":
            self.send_whole(200, b"\xff no JSON")
        elif body.get("prompt") == "list":
            self.send_whole(200, b"[]")
        elif body.get("stream"):
            self.send_whole(200, STREAM, "text/event-stream")
        else:
            self.send_whole(200, json.dumps({"path": self.path, "raw": raw.decode()}).encode())


@pytest.fixture(scope="module")
def runner_port() -> Iterator[int]:
    with serving(Runner) as port:
        yield port


class Backend(FakeBackend):
    def ports(self) -> dict[str, int]:
        return {"tiny": 9001, "plain": 9002, "vectors": 9003}


@pytest.fixture
def backend(runner_port: int) -> FakeBackend:
    backend = Backend()
    backend.after_up = lambda container: make_container(container.model_id, id=container.id, port=runner_port)
    return backend


@pytest.fixture
def client(backend: FakeBackend, tmp_path: Path) -> Iterator[FlaskClient]:
    models = {
        "tiny": make_spec("tiny", aliases=("small",)),
        "plain": make_spec("plain", task="completion"),
        "vectors": make_spec("vectors", task="embedding"),
    }
    settings = Settings(data_dir=tmp_path, compose_dir=tmp_path, project="test")
    app = create_app(make_controller(settings, registry=Registry(models=models), backend=backend))
    yield app.test_client()
    app.extensions["controller"].close()


def in_flight(client: FlaskClient) -> int:
    return sum(row["in_flight"] for row in client.get("/status").get_json()["models"])


def test_models_are_listed(client: FlaskClient) -> None:
    """All ids are listed, in the registry's order; one model is shown by id or alias, under that name."""
    body = client.get("/v1/models").get_json()
    assert "list" == body["object"]
    assert ["tiny", "plain", "vectors"] == [row["id"] for row in body["data"]]
    for name in ("tiny", "small"):
        assert {"id": name, "object": "model", "created": 0, "owned_by": "orchestrar"} == (
            client.get(f"/v1/models/{name}").get_json()
        )


@pytest.mark.parametrize(
    ("path", "field"),
    [
        (CHAT, {"model": "small", "messages": MESSAGES}),
        (COMPLETIONS, {"model": "small", "prompt": "hi"}),
        (EMBEDDINGS, {"model": "vectors", "input": "hi"}),
        (EMBEDDINGS, {"model": "vectors", "input": ["hi", "there"], "encoding_format": "base64"}),
        (EMBEDDINGS, {"model": "vectors", "input": [0]}),
        (EMBEDDINGS, {"model": "vectors", "input": [[1, 2], [3]]}),
    ],
)
def test_the_body_reaches_the_runner_unchanged(client: FlaskClient, path: str, field: dict[str, Any]) -> None:
    """Byte for byte, to the same path, with the name that the client wrote and parameters unknown to us."""
    raw = json.dumps({**field, "frobnicate": {"a": [1, None]}}, indent=3)
    response = client.post(path, data=raw)
    assert {"path": path, "raw": raw} == response.get_json()
    assert "start;dur=" in response.headers["Server-Timing"]


def test_a_whole_answer_passes_unchanged(client: FlaskClient) -> None:
    """Byte for byte: numbers and escapes are not rewritten, which for vectors would cost more than making them."""
    response = client.post(COMPLETIONS, data=json.dumps({"model": "tiny", "prompt": "odd json"}))
    assert ODD.strip() == response.data
    assert "application/json" == response.content_type


def test_a_stream_passes_unread(client: FlaskClient) -> None:
    """Chunks, comments and `[DONE]` reach the client unchanged."""
    response = client.post(CHAT, data=json.dumps({"model": "tiny", "messages": MESSAGES, "stream": True}))
    assert "text/event-stream; charset=utf-8" == response.content_type
    assert "start;dur=" in response.headers["Server-Timing"]
    assert STREAM == response.data
    assert 0 == in_flight(client)


@pytest.mark.parametrize("prompt", ["garbage", "list"])
def test_a_strange_answer_is_a_502(client: FlaskClient, prompt: str) -> None:
    """Answers pass unread, but only if they are JSON objects."""
    response = client.post(COMPLETIONS, data=json.dumps({"model": "tiny", "prompt": prompt}))
    check_error(response.status_code, response.get_json(), 502, "upstream_invalid")
    assert 0 == in_flight(client)


def test_a_model_that_dies_mid_stream_ends_it_with_an_error(client: FlaskClient) -> None:
    """A stream that breaks ends with one error event and has no `[DONE]`."""
    response = client.post(COMPLETIONS, data=json.dumps({"model": "tiny", "prompt": "die", "stream": True}))
    assert response.data.startswith(STREAM[:10])
    assert "model_died" == json.loads(response.data.split(b"data: ")[-1])["error"]["code"]
    assert b"[DONE]" not in response.data
    assert 0 == in_flight(client)


@pytest.mark.parametrize(("status", "expected"), [("400", 400), ("500", 502), ("503", 503)])
def test_the_models_own_errors_pass_through(client: FlaskClient, status: str, expected: int) -> None:
    """The client gets the runner's own error; a 503 comes with the time to wait."""
    response = client.post(COMPLETIONS, data=json.dumps({"model": "tiny", "prompt": status}))
    error = check_error(response.status_code, response.get_json(), expected, "own_code", src="model")
    assert "the model's own words" == error["message"]
    assert ("1" if expected == 503 else None) == response.headers.get("Retry-After")


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, EMBEDDINGS])
def test_an_unknown_model_is_a_404(client: FlaskClient, backend: FakeBackend, path: str) -> None:
    """The refusal names the known ids and this API's own field; Docker is not touched."""
    response = client.post(path, data=json.dumps({"model": "gpt-4", "messages": MESSAGES, "prompt": "x", "input": "x"}))
    error = check_error(response.status_code, response.get_json(), 404, "model_not_found")
    assert ("model", {"known": ["plain", "tiny", "vectors"]}) == (error["param"], error["details"])
    response = client.get("/v1/models/gpt-4")
    check_error(response.status_code, response.get_json(), 404, "model_not_found")
    assert [] == backend.calls


@pytest.mark.parametrize(
    ("path", "model", "reason"),
    [
        (CHAT, "plain", "no chat model"),
        (CHAT, "plain", "by /v1/completions"),
        (CHAT, "vectors", "no chat model"),
        (CHAT, "vectors", "by /v1/embeddings"),
        (COMPLETIONS, "vectors", "no text"),
        (EMBEDDINGS, "small", "no embeddings"),
        (EMBEDDINGS, "small", "by /v1/chat/completions, or a model with `task: embedding`"),
        (EMBEDDINGS, "plain", "by /v1/completions"),
    ],
)
def test_a_model_of_another_task_is_a_400(
    client: FlaskClient, backend: FakeBackend, path: str, model: str, reason: str
) -> None:
    """A request for another task than the model's is refused before a start."""
    body = {"model": model, "messages": MESSAGES, "prompt": "x", "input": "x"}
    response = client.post(path, data=json.dumps(body))
    error = check_error(response.status_code, response.get_json(), 400, "task_unsupported")
    assert "model" == error["param"]
    assert reason in error["message"]
    assert [] == backend.calls


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"model_id": "vectors", "prompt": "hi"}, "by /v1/embeddings"),
        ({"model_id": "vectors", "messages": MESSAGES}, "by /v1/embeddings"),
        ({"model_id": "plain", "messages": MESSAGES}, "no chat model"),
    ],
)
def test_the_native_route_refuses_likewise(
    client: FlaskClient, backend: FakeBackend, body: dict[str, Any], reason: str
) -> None:
    """`POST /inference` starts no model for another task either; a prompt needs no chat model."""
    response = client.post("/inference", data=json.dumps(body))
    error = check_error(response.status_code, response.get_json(), 400, "task_unsupported")
    assert "model_id" == error["param"]
    assert reason in error["message"]
    assert [] == backend.calls
    assert 200 == client.post("/inference", data=json.dumps({"model_id": "plain", "prompt": "hi"})).status_code


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"", "model"),
        (b"{", None),
        (b"[]", None),
        (b"null", None),
        (b"\xff", None),
        (b"[" * 100_000, None),
        (b'{"messages": []}', "model"),
        (b'{"model": 5}', "model"),
        (b'{"model": ""}', "model"),
        (b'{"model": "tiny", "stream": "yes"}', "stream"),
    ],
)
def test_a_bad_body_is_a_400(client: FlaskClient, backend: FakeBackend, body: bytes, param: str | None) -> None:
    """A body that is no JSON object, or names no model, is refused here; Docker is not touched."""
    response = client.post(CHAT, data=body)
    error = check_error(response.status_code, response.get_json(), 400, "invalid_body")
    assert param is None or param == error["param"]
    assert [] == backend.calls


@pytest.mark.parametrize(
    "fields", [{}, {"input": None}, {"input": ""}, {"input": []}, {"input": 5}, {"input": {"a": 1}}]
)
def test_nothing_to_embed_is_a_400(client: FlaskClient, backend: FakeBackend, fields: dict[str, Any]) -> None:
    """No model is started for a request that has no input."""
    response = client.post(EMBEDDINGS, data=json.dumps({"model": "vectors", **fields}))
    error = check_error(response.status_code, response.get_json(), 400, "invalid_body")
    assert "input" == error["param"]
    assert [] == backend.calls
