"""The API over a small third-party server, which speaks the OpenAI API alone, as llama.cpp's and vLLM's do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from controller.app import create_app
from controller.registry import Registry
from controller.registry.file.auto_engine import auto_candidates
from controller.settings import Settings
from tests.engines import ALL_ENGINES
from tests.errorshape import check_error
from tests.fake_controller import make_controller
from tests.fakes import FakeBackend, make_container, make_spec
from tests.stub_runner import StubRunner, serving

CHAT = "/v1/chat/completions"
STREAM = (
    b'data: {"model": "tiny", "choices": [{"delta": {"content": "hi"}, "finish_reason": null}]}\n\n'
    b'data: {"model": "tiny", "choices": [{"delta": {}, "finish_reason": "stop"}]}\n\n'
    b'data: {"choices": [], "usage": {"prompt_tokens": 2, "completion_tokens": 1}}\n\ndata: [DONE]\n\n'
)


class Server(StubRunner):
    """Knows one model and refuses every other, as vLLM does; a message may ask for another answer."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        content = body["messages"][-1]["content"]
        if self.path != CHAT or body["model"] != "tiny" or content == "404":
            error = {"message": "no such thing", "type": "NotFoundError", "code": 404}
            self.send_whole(404, json.dumps({"error": error}).encode())
        elif content == "die":
            self.send_whole(200, STREAM[:100], "text/event-stream", length=len(STREAM))
            self.close_connection = True
        elif content == "whole" or not body.get("stream"):
            self.send_whole(200, json.dumps({"model": "tiny", "choices": []}).encode())
        else:
            self.send_whole(200, STREAM, "text/event-stream")


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with serving(Server) as port:
        yield port


@pytest.fixture
def client(port: int, tmp_path: Path) -> Iterator[FlaskClient]:
    backend = FakeBackend()
    backend.after_up = lambda container: make_container("tiny", id=container.id, port=port)
    models = {"tiny": make_spec("tiny", aliases=("small",), engine="vllm")}
    settings = Settings(data_dir=tmp_path, compose_dir=tmp_path, project="test")
    app = create_app(make_controller(settings, registry=Registry(models=models), backend=backend))
    yield app.test_client()
    app.extensions["controller"].close()


@pytest.fixture
def undecided(port: int, tmp_path: Path) -> Iterator[FlaskClient]:
    """Yield a client of a model whose files, which come while its first request waits, are for llama.cpp's server."""
    backend = FakeBackend()
    backend.prepared_models = set()
    backend.on_prepare = lambda model_id, *_: backend.engines.update({model_id: "llamacpp"})
    backend.after_up = lambda container: make_container("tiny", id=container.id, port=port, engine="llamacpp")
    candidates = auto_candidates(task="chat", gpus=0, engines=ALL_ENGINES)
    spec = make_spec("tiny", aliases=("small",), engine="openvino", candidates=candidates, max_concurrency=32)
    settings = Settings(data_dir=tmp_path, compose_dir=tmp_path, project="test")
    app = create_app(make_controller(settings, registry=Registry(models={"tiny": spec}), backend=backend))
    yield app.test_client()
    app.extensions["controller"].close()


def test_the_first_request_is_for_the_engine_that_its_files_decide(undecided: FlaskClient) -> None:
    """While it waits the engine changes from our runner to another server, which is asked by the OpenAI API."""
    assert "openvino" == undecided.get("/models").get_json()["models"][0]["engine"]
    answer = ask(undecided, "hello").get_json()
    assert ("hi", "stop", "tiny") == (answer["text"], answer["finish_reason"], answer["model_id"])
    assert answer["timings"]["start_s"] <= answer["timings"]["ttft_s"] <= answer["timings"]["total_s"]
    for path in ("/models", "/status"):
        (row,) = undecided.get(path).get_json()["models"]
        assert ("llamacpp", "the fake says so") == (row["engine"], row["engine_reason"])
    assert "small" == chat(undecided, "hello").get_json()["model"]


def ask(client: FlaskClient, prompt: str, **fields: Any) -> Any:
    return client.post("/inference", data=json.dumps({"model_id": "small", "prompt": prompt, **fields}), buffered=True)


def chat(client: FlaskClient, content: str, **fields: Any) -> Any:
    body = {"model": "small", "messages": [{"role": "user", "content": content}], **fields}
    return client.post(CHAT, data=json.dumps(body), buffered=True)


def test_inference_is_answered_in_our_form(client: FlaskClient) -> None:
    """Text, reason, counts, and times that include the wait for the model."""
    answer = ask(client, "hello").get_json()
    assert ("hi", "stop", "tiny") == (answer["text"], answer["finish_reason"], answer["model_id"])
    assert {"prompt_tokens": 2, "completion_tokens": 1, "total_tokens": 3} == answer["usage"]
    assert {"queue_s", "start_s", "ttft_s", "total_s"} == set(answer["timings"])
    assert answer["timings"]["start_s"] <= answer["timings"]["ttft_s"] <= answer["timings"]["total_s"]


def test_inference_streams_in_our_form(client: FlaskClient) -> None:
    """The client gets our events alone, and the lease is given back."""
    response = ask(client, "hello", stream=True)
    assert "text/event-stream; charset=utf-8" == response.content_type
    events = [json.loads(line[6:]) for line in response.data.splitlines() if line.startswith(b"data: ")]
    assert ("hi", True) == (events[0]["text"], events[-1]["done"])
    assert b"choices" not in response.data
    assert 0 == client.get("/status").get_json()["models"][0]["in_flight"]


@pytest.mark.parametrize("stream", [False, True])
def test_refusals_are_the_servers(client: FlaskClient, stream: bool) -> None:
    """Its status and message in our shape, streamed or not, on both APIs."""
    for response in (ask(client, "404", stream=stream), chat(client, "404", stream=stream)):
        error = check_error(response.status_code, response.get_json(), 404, "model_error", src="model")
        assert ("no such thing", "NotFoundError") == (error["message"], error["type"])


def test_a_server_that_dies_mid_stream_ends_it_with_an_error(client: FlaskClient) -> None:
    """One error event and no `done`; the whole answer is a 502."""
    response = ask(client, "die", stream=True)
    assert b'"text": "hi"' in response.data
    assert "model_died" == json.loads(response.data.split(b"data: ")[-1])["error"]["code"]
    response = ask(client, "die")
    check_error(response.status_code, response.get_json(), 502, "model_died")


@pytest.mark.parametrize("stream", [False, True])
def test_a_server_that_does_not_stream_is_a_502(client: FlaskClient, stream: bool) -> None:
    """A whole answer is not taken for a stream."""
    response = ask(client, "whole", stream=stream)
    check_error(response.status_code, response.get_json(), 502, "upstream_invalid")


def test_the_openai_api_keeps_the_clients_name(client: FlaskClient) -> None:
    """An alias in, the same alias out: whole and in every chunk of a stream."""
    assert "small" == chat(client, "hello").get_json()["model"]
    stream = chat(client, "hello", stream=True).data
    assert stream.endswith(b"data: [DONE]\n\n")
    assert b'"tiny"' not in stream


def test_relaxed_hardening_is_shown(client: FlaskClient) -> None:
    """Each line of the hardening that the engine relaxes, with its reason."""
    (row,) = client.get("/status").get_json()["models"]
    assert {"what", "why"} == set(row["relaxed"][0])
    assert any(line["what"].startswith("shm_size") for line in row["relaxed"])
