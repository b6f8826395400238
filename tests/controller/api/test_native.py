"""The native API over a fake Docker and a small real server in the runner's place."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flask import Response
from flask.testing import FlaskClient

from controller.api.bodies import InferenceBody, read_body
from controller.api.dispatch import with_model
from controller.api.ollama.bodies import GenerateBody
from controller.app import create_app
from controller.errors import ModelNotFound, ModelStopping
from controller.registry import ModelSpec, Registry
from controller.settings import ROOT, Settings
from controller.supervisor.backend import Amount
from tests.controller.supervisor.house import until
from tests.errorshape import check_error
from tests.fake_controller import make_controller
from tests.fakes import HANG_S, FakeBackend, make_container, make_spec
from tests.stub_runner import StubRunner, serving


class Runner(StubRunner):
    """Answers /health and echoes the body of /inference."""

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        body = json.loads(raw)
        prompt = body.get("prompt") or ""
        if prompt == "redirect":
            self.send_response(302)
            self.send_header("Location", "http://127.0.0.1:1/")
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif prompt == "garbage":
            self.send_whole(200, b"\xff not json")
        elif prompt == "server error":
            self.send_whole(500, b'{"error": {"message": "engine broke", "code": "engine_failed"}}')
        elif prompt == "odd timings":
            self.send_whole(200, b'{"text": "x", "timings": [1]}')
        elif prompt == "strange error":
            self.send_whole(500, b'"oops"')
        elif body.get("stream"):
            self.send_whole(200, b'data: {"text": "a"}\n\ndata: {"done": true}\n\n', "text/event-stream")
        else:
            answer = {"text": json.dumps(body), "timings": {"ttft_s": 0.1, "total_s": 0.2}}
            self.send_whole(200, json.dumps(answer).encode())


@pytest.fixture(scope="module")
def runner_port() -> Iterator[int]:
    with serving(Runner) as port:
        yield port


@pytest.fixture
def backend(runner_port: int) -> FakeBackend:
    backend = FakeBackend()
    backend.after_up = lambda container: make_container("tiny", id=container.id, port=runner_port)
    return backend


@pytest.fixture
def client(backend: FakeBackend, tmp_path: Path) -> Iterator[FlaskClient]:
    models = {"tiny": make_spec("tiny", aliases=("small",))}
    settings = Settings(data_dir=tmp_path, compose_dir=tmp_path, max_body_bytes=200_000, project="test")
    app = create_app(make_controller(settings, registry=Registry(models=models), backend=backend))
    yield app.test_client()
    app.extensions["controller"].close()


def post(client: FlaskClient, path: str, body: Any, **kwargs: Any) -> tuple[int, Any]:
    data = body if isinstance(body, (str, bytes)) else json.dumps(body)
    response = client.post(path, data=data, buffered=True, **kwargs)
    return response.status_code, response.get_json(silent=True)


GOOD = {"model_id": "tiny", "prompt": "hi"}


class TestNames:
    @pytest.mark.parametrize(
        ("path", "body"),
        [
            ("/inference", {"model_id": "small", "prompt": "hi"}),
            ("/v1/completions", {"model": "small", "prompt": "hi"}),
            ("/api/generate", {"model": "small"}),
            ("/run", {"model_id": "small"}),
        ],
    )
    def test_a_name_is_followed_to_another_model(
        self, client: FlaskClient, backend: FakeBackend, runner_port: int, path: str, body: dict[str, str]
    ) -> None:
        """A reload gives it to another model while a request waits for the first, which goes: the other answers."""
        app = client.application
        services = app.extensions["orchestrar"]
        other = make_spec("other", aliases=("small",))
        backend.after_up = lambda container: replace(container, port=runner_port)
        backend.up_gate.clear()
        with ThreadPoolExecutor(2) as pool:
            answer = pool.submit(post, app.test_client(), path, body)
            until(lambda: services.supervisor.view("tiny").waiting == 1)
            services.supervisor.change({"tiny": make_spec("tiny"), "other": other}, remade=())
            services.registry.now = Registry(models={"other": other})
            drop = pool.submit(services.supervisor.drop, ["tiny"])
            until(lambda: services.supervisor.view("other").waiting == 1)
            backend.up_gate.set()
            assert answer.result(HANG_S)[0] == 200
            drop.result(HANG_S)
        assert "up other" in backend.calls

    def test_a_name_that_stays_is_refused(self) -> None:
        """A model that is being stopped refuses under each of its names, and no other model is asked."""
        model_ids: list[str] = []

        def ask(spec: ModelSpec, _max_wait_s: float | None) -> Response:
            model_ids.append(spec.id)
            raise ModelStopping("it is being stopped")

        with pytest.raises(ModelStopping):
            with_model(Registry(models={"tiny": make_spec("tiny", aliases=("small",))}).resolve, "small", ask)
        assert ["tiny"] == model_ids

    def test_a_name_that_is_removed_gets_the_first_refusal(self) -> None:
        """The model that is being stopped refuses: it may stay after all, so another try may help."""
        registry = Registry(models={"tiny": make_spec("tiny")})

        def ask(_spec: ModelSpec, _max_wait_s: float | None) -> Response:
            nonlocal registry
            registry = Registry(models={})
            raise ModelStopping("it is being stopped")

        with pytest.raises(ModelStopping):
            with_model(lambda name: registry.resolve(name), "tiny", ask)

    def test_two_models_share_one_wait(self) -> None:
        """The time that a request waited for a removed model is missing from its wait for the other one."""
        waits: list[float | None] = []
        specs = iter([make_spec("tiny"), make_spec("other", max_wait_s=60)])

        def ask(spec: ModelSpec, max_wait_s: float | None) -> Response:
            waits.append(max_wait_s)
            if spec.id == "tiny":
                raise ModelNotFound("it is gone")
            return Response()

        with_model(lambda _: next(specs), "small", ask)
        assert waits[0] is None
        assert waits[1] is not None
        assert waits[1] < 60


class TestInference:
    def test_the_answer_is_the_runners(self, client: FlaskClient) -> None:
        """The runner gets what concerns it, the client the runner's answer with model and timings."""
        status, body = post(client, "/inference", {**GOOD, "model_id": "small", "temperature": 0, "keep_alive": "5m"})
        assert status == 200
        assert json.loads(body["text"]) == {"prompt": "hi", "temperature": 0.0, "stream": False}
        assert body["model_id"] == "tiny"
        assert set(body["timings"]) == {"queue_s", "start_s", "ttft_s", "total_s"}

    def test_the_response_format_passes_unchanged(self, client: FlaskClient) -> None:
        """It reaches the runner with every null in it; the runner checks it."""
        response_format = {
            "type": "json_schema",
            "json_schema": {"name": "a", "schema": {"enum": [None], "x": {"y": None}}},
        }
        _, body = post(client, "/inference", {**GOOD, "response_format": response_format})
        assert json.loads(body["text"])["response_format"] == response_format
        check_error(*post(client, "/inference", {**GOOD, "response_format": "json"}), 400, "invalid_body")

    def test_a_stream_passes_unread(self, client: FlaskClient) -> None:
        """Server-sent events reach the client byte for byte."""
        response = client.post("/inference", data=json.dumps({**GOOD, "stream": True}))
        assert response.content_type == "text/event-stream; charset=utf-8"
        assert response.data == b'data: {"text": "a"}\n\ndata: {"done": true}\n\n'

    def test_an_unread_stream_gives_its_lease_back(self, client: FlaskClient) -> None:
        """A stream that is closed before its first byte was read holds no lease."""
        response = client.post("/inference", data=json.dumps({**GOOD, "stream": True}), buffered=False)
        response.close()
        row = client.get("/status").get_json()["models"][0]
        assert row["in_flight"] == 0

    @pytest.mark.parametrize("prompt", ["redirect", "garbage", "strange error"])
    def test_a_strange_runner_is_a_502(self, client: FlaskClient, prompt: str) -> None:
        """An answer that no runner gives is never passed on."""
        check_error(*post(client, "/inference", {**GOOD, "prompt": prompt}), 502, "upstream_invalid")

    def test_a_runners_500_is_a_502_of_the_model(self, client: FlaskClient) -> None:
        """A runner's own 500 becomes 502, with its message and `src: model`."""
        status, body = post(client, "/inference", {**GOOD, "prompt": "server error"})
        error = check_error(status, body, 502, "engine_failed", src="model")
        assert error["message"] == "engine broke"

    def test_odd_timings_are_left_out(self, client: FlaskClient) -> None:
        """An answer whose timings are of no known shape is still an answer."""
        status, body = post(client, "/inference", {**GOOD, "prompt": "odd timings"})
        assert (status, set(body["timings"])) == (200, {"queue_s", "start_s"})

    @pytest.mark.parametrize("stream", [False, True])
    def test_nothing_is_held_after_an_error(self, client: FlaskClient, stream: bool) -> None:
        """Whatever the answer was, lease and place are given back."""
        for prompt in ("hi", "redirect", "garbage", "server error"):
            post(client, "/inference", {**GOOD, "prompt": prompt, "stream": stream})
        assert client.get("/status").get_json()["models"][0]["in_flight"] == 0

    def test_above_the_cap_is_an_instant_503(self, backend: FakeBackend, tmp_path: Path) -> None:
        """With all places taken a further request is refused at once, with the time to wait."""
        settings = Settings(data_dir=tmp_path, compose_dir=tmp_path, max_in_flight=1, project="test")
        app = create_app(make_controller(settings, registry=Registry(models={"tiny": make_spec()}), backend=backend))
        client = app.test_client()
        first = client.post("/inference", data=json.dumps({**GOOD, "stream": True}), buffered=False)
        response = client.post("/inference", data=json.dumps(GOOD))
        check_error(response.status_code, response.get_json(), 503, "overloaded")
        assert response.headers["Retry-After"] == "1"
        first.close()
        assert client.post("/inference", data=json.dumps(GOOD)).status_code == 200
        app.extensions["controller"].close()


BAD_BODIES: list[tuple[Any, str | None]] = [
    ("", "model_id"),
    ("{", None),
    ("[]", None),
    ("null", None),
    (b"\xff\xfe", None),
    ("[" * 100_000, None),
    ('{"model_id": "tiny", "prompt": "x", "temperature": NaN}', "temperature"),
    ('{"model_id": "tiny", "prompt": "x", "temperature": 1e999}', "temperature"),
    ('{"model_id": "tiny", "prompt": "x", "seed": ' + "9" * 4000 + "}", "seed"),
    ({"prompt": "x"}, "model_id"),
    ({"model_id": 5, "prompt": "x"}, "model_id"),
    ({"model_id": "tiny"}, None),
    ({**GOOD, "messages": [{"role": "user", "content": "x"}]}, None),
    ({"model_id": "tiny", "messages": []}, "messages"),
    ({"model_id": "tiny", "messages": [{"role": "user"}]}, "messages.0.content"),
    ({**GOOD, "max_tokens": 0}, "max_tokens"),
    ({**GOOD, "max_tokens": True}, "max_tokens"),
    ({**GOOD, "max_tokens": "5"}, "max_tokens"),
    ({**GOOD, "temperature": -1}, "temperature"),
    ({**GOOD, "top_p": 0}, "top_p"),
    ({**GOOD, "stream": "yes"}, "stream"),
    ({**GOOD, "keep_alive": "soon"}, "keep_alive"),
    ({**GOOD, "max_token": 5}, "max_token"),
    ({**GOOD, "prompt": ""}, "prompt"),
    ({"model": "tiny", "prompt": "x"}, "model_id"),
    ({"model_id": "tiny", "raw": True, "messages": [{"role": "user", "content": "x"}]}, None),
    ({"model_id": "tiny", "messages": [{"role": "wizard", "content": "x"}]}, "messages.0.role"),
]


class TestBadInput:
    @pytest.mark.parametrize(("body", "param"), BAD_BODIES, ids=[repr(body)[:50] for body, _ in BAD_BODIES])
    def test_a_bad_body_is_a_400(self, client: FlaskClient, backend: FakeBackend, body: Any, param: str | None) -> None:
        """The error names the field that is wrong, and Docker is not touched."""
        error = check_error(*post(client, "/inference", body), 400, "invalid_body")
        assert error["type"] == "invalid_request_error"
        if param is not None:
            assert error["param"] == param
            assert param in error["message"]
        assert backend.calls == []

    def test_a_near_miss_gets_a_suggestion(self, client: FlaskClient) -> None:
        """The error for a misspelt field has the right name, the one for broken JSON an example."""
        error = check_error(*post(client, "/inference", {**GOOD, "max_token": 5}), 400, "invalid_body")
        assert "max_token: is not a known field; did you mean max_tokens?" in error["message"]
        error = check_error(*post(client, "/inference", "{model_id: tiny}"), 400, "invalid_body")
        assert 'send JSON such as {"model_id"' in error["message"]

    @pytest.mark.parametrize("path", ["/inference", "/run", "/stop"])
    def test_an_unknown_model_is_a_404(self, client: FlaskClient, path: str) -> None:
        """The error for an unknown model has the known ids."""
        body = {"model_id": "nope", "prompt": "x"} if path == "/inference" else {"model_id": "nope"}
        error = check_error(*post(client, path, body), 404, "model_not_found")
        assert (error["param"], error["details"]) == ("model_id", {"known": ["tiny"]})

    def test_an_unknown_route_is_a_404(self, client: FlaskClient) -> None:
        """The error for a wrong address has the same shape, and says what lists the right ones."""
        response = client.get("/nope")
        error = check_error(response.status_code, response.get_json(), 404, "route_not_found")
        assert "GET /" in error["message"]

    def test_a_wrong_method_is_a_405(self, client: FlaskClient) -> None:
        """The error for a wrong method has the right ones."""
        response = client.get("/inference")
        error = check_error(response.status_code, response.get_json(), 405, "method_not_allowed")
        assert "it takes OPTIONS, POST" in error["message"]
        assert response.headers["Allow"] == "OPTIONS, POST"

    def test_too_large_a_body_is_a_413(self, client: FlaskClient) -> None:
        """A body above the limit is refused, whatever it contains."""
        check_error(*post(client, "/inference", b" " * 200_001), 413, "body_too_large")

    def test_another_host_is_a_403(self, client: FlaskClient, backend: FakeBackend) -> None:
        """A name that leads a browser here (DNS rebinding) gives no access."""
        check_error(*post(client, "/inference", GOOD, headers={"Host": "evil.example"}), 403, "host_forbidden")
        assert backend.calls == []

    def test_another_sites_page_is_a_403(self, client: FlaskClient, backend: FakeBackend) -> None:
        """A page of another site cannot use the API through its visitor's browser."""
        origins = ("https://evil.example", "null", "http://[")
        for headers in (*({"Origin": origin} for origin in origins), {"Sec-Fetch-Site": "cross-site"}):
            answer = post(client, "/stop", {"model_id": "tiny"}, headers=headers, content_type="application/json")
            check_error(*answer, 403, "origin_forbidden")
        assert backend.calls == []

    def test_a_browser_must_declare_json(self, client: FlaskClient) -> None:
        """A form or plain text sent by a browser is a 415; a plain `curl -d` needs no content type."""
        headers = {"Origin": "http://localhost:8000"}
        check_error(*post(client, "/run", {"model_id": "tiny"}, headers=headers), 415, "content_type_forbidden")
        status, _ = post(client, "/run", {"model_id": "tiny"}, headers=headers, content_type="application/json")
        assert status == 200
        status, _ = post(client, "/run", {"model_id": "tiny"}, content_type="application/x-www-form-urlencoded")
        assert status == 200

    def test_our_own_fault_shows_no_traceback(self, client: FlaskClient, backend: FakeBackend) -> None:
        """A bug ends in the envelope with the request's id; its traceback is in the log only."""
        backend.ports = lambda: 1 / 0  # type: ignore[assignment, return-value]
        response = client.get("/models", headers={"X-Request-Id": "abc-1"})
        error = check_error(response.status_code, response.get_json(), 500, "internal_error")
        assert error["request_id"] == response.headers["X-Request-Id"] == "abc-1"
        assert "ZeroDivision" not in response.text


class TestRoutes:
    def test_models_lists_the_registry(self, client: FlaskClient) -> None:
        """`GET /models` shows each entry with its state."""
        (row,) = client.get("/models").get_json()["models"]
        assert (row["id"], row["aliases"], row["state"], row["port"]) == ("tiny", ["small"], "stopped", 9001)

    def test_a_models_life(self, client: FlaskClient) -> None:
        """run, status, stop: the right states, ports and times."""
        status, body = post(client, "/run", {"model_id": "small"})
        assert (status, body["model_id"], body["state"]) == (200, "tiny", "ready")
        assert body["url"] == f"http://127.0.0.1:{body['port']}"
        row = client.get("/status").get_json()["models"][0]
        assert (row["state"], row["start_phases"]["load_s"]) == ("ready", 0.5)
        assert 0 < row["idle_stop_in_s"] <= 900
        assert post(client, "/stop", {"model_id": "tiny"}) == (200, {"model_id": "tiny", "state": "stopped"})

    def test_files_of_a_running_model_stay(self, client: FlaskClient) -> None:
        """Files can be deleted only of a stopped model; the answer says what was freed."""
        post(client, "/run", {"model_id": "tiny"})
        response = client.delete("/models/tiny/files")
        check_error(response.status_code, response.get_json(), 409, "model_busy")
        post(client, "/stop", {"model_id": "tiny"})
        assert client.delete("/models/small/files").get_json() == {"model_id": "tiny", "freed_bytes": 123}

    def test_the_index_lists_the_routes(self, client: FlaskClient) -> None:
        """`GET /` names every route, for a user with a browser."""
        assert "POST /inference" in client.get("/").get_json()["routes"]


@pytest.mark.parametrize(("body", "names_model"), [(InferenceBody, "model_id"), (GenerateBody, "model")])
def test_no_text_is_kept_after_its_request(body: type[InferenceBody | GenerateBody], names_model: str) -> None:
    """The same text sent twice makes two texts: the first is not kept for the second."""
    raw = json.dumps({names_model: "tiny", "prompt": "a secret"}).encode()
    first, second = (read_body(body, raw).prompt for _ in range(2))
    assert first == second
    assert first is not second


def test_a_preloaded_model_starts_with_the_controller(backend: FakeBackend, tmp_path: Path) -> None:
    """Without any request for it."""
    models = {"tiny": make_spec("tiny", preload=True), "other": make_spec("other")}
    settings = Settings(data_dir=tmp_path, compose_dir=tmp_path, project="test")
    app = create_app(make_controller(settings, registry=Registry(models=models), backend=backend))
    try:
        until(lambda: backend.calls == ["up tiny"])
        until(lambda: app.test_client().get("/models").get_json()["models"][0]["state"] == "ready")
    finally:
        app.extensions["controller"].close()


def test_an_edit_during_the_start_is_applied(backend: FakeBackend, tmp_path: Path) -> None:
    """An edit of models.yaml after it was read, and before the controller serves, is applied later."""
    path = tmp_path / "models.yaml"
    path.write_text("models: {tiny: {source: 'file:///nowhere'}}")
    room = backend.room

    def room_after_an_edit(used_bytes: int) -> Amount:
        path.write_text("models: {other: {source: 'file:///nowhere'}}")
        return room(used_bytes)

    backend.room = room_after_an_edit  # type: ignore[method-assign]
    settings = Settings(config_file=path, data_dir=tmp_path, compose_dir=tmp_path, project="test")
    app = create_app(make_controller(settings, backend=backend))
    try:
        until(lambda: list(app.extensions["orchestrar"].registry.models) == ["other"])
    finally:
        app.extensions["controller"].close()


def test_a_dry_run_reads_no_templates(backend: FakeBackend, tmp_path: Path) -> None:
    """What the templates say about their engines changes with a reload, not with a dry run of it."""
    templates = Path(shutil.copytree(ROOT / "templates", tmp_path / "templates"))
    path = tmp_path / "models.yaml"
    path.write_text("models: {tiny: {source: 'file:///nowhere'}}")
    settings = Settings(
        config_file=path, data_dir=tmp_path, compose_dir=tmp_path, templates_dir=templates, project="test"
    )
    controller = make_controller(settings, backend=backend)
    create_app(controller)
    try:
        shutil.copy(templates / "engines" / "llamacpp.yaml.j2", templates / "engines" / "mine.yaml.j2")
        controller.reloader.reload(dry_run=True)
        assert "mine" not in controller.engines
        controller.reloader.reload()
        assert "mine" in controller.engines
    finally:
        controller.close()
