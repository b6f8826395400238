"""A third-party server as an engine: llama.cpp's template, and an image that knows only the OpenAI API."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from typing import Any

import ollama
import openai
import pytest
import requests
from openai import OpenAI

from controller.settings import ROOT
from tests.docker.conftest import Build
from tests.docker.faults.streams import answer_events
from tests.docker.house import House, docker, until
from tests.errorshape import check_error


@pytest.fixture(scope="module")
def house(build_house: Build, openai_image: str) -> House:
    common = {"engine": "llamacpp", "image": openai_image, "gguf": True}
    models = {
        "llama": {
            **common,
            "aliases": ["lama"],
            "context_length": 512,
            "max_concurrency": 4,
            "args": ["--no-repack"],
            "generation": {"temperature": 0.5, "max_tokens": 9},
        },
        "plain": {**common, "task": "completion", "env": {"FAKE_START_S": "1"}},
        "relaxed": {"engine": "vllm", "image": openai_image},
        "wrong": {"engine": "llamacpp", "image": openai_image},
    }
    return build_house(models)


def user(content: Any) -> Any:
    return [{"role": "user", "content": content if isinstance(content, str) else json.dumps(content)}]


def last_request(house: House, model_id: str) -> dict[str, Any]:
    """Return the server's last request, and the arguments that it does not know."""
    document: dict[str, Any] = requests.get(
        f"http://127.0.0.1:{house.status(model_id)['port']}/last_request", timeout=5
    ).json()
    return document


class TestNative:
    def test_a_stopped_model_answers(self, house: House) -> None:
        """`POST /inference` starts it and returns its answer in our format, with counts and times."""
        answer = house.ask("lama", "hello").json()
        assert ("hello", "stop", "llama") == (answer["text"], answer["finish_reason"], answer["model_id"])
        assert {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2} == answer["usage"]
        timings = answer["timings"]
        assert 0 <= timings["start_s"] <= timings["ttft_s"] <= timings["total_s"]
        assert "/v1/chat/completions" == last_request(house, "llama")["path"]

    def test_a_stream_is_in_our_format(self, house: House) -> None:
        """Events with `text`, then one with `done`."""
        *texts, last = answer_events(house.ask("llama", {"tokens": 3}, stream=True))
        assert "word0 word1 word2 " == "".join(event["text"] for event in texts)
        assert (True, "stop", 4) == (last["done"], last["finish_reason"], last["usage"]["total_tokens"])

    def test_a_completion_model_gets_the_prompt_unchanged(self, house: House) -> None:
        """A model without a chat template is asked through /v1/completions, and only once its server is ready."""
        assert "abc" == house.ask("plain", "abc").json()["text"]
        assert "/v1/completions" == last_request(house, "plain")["path"]
        assert house.status("plain")["start_s"] > 1

    def test_an_error_in_the_stream_is_passed_on(self, house: House) -> None:
        """The text before it arrives, then the server's own message, and no `done`."""
        first, last = answer_events(house.ask("llama", {"tokens": 3, "error_after": 1, "delay_s": 0.05}, stream=True))
        assert {"text": "word0 "} == first
        assert ("the engine gave up", "model") == (last["error"]["message"], last["error"]["src"])

    def test_an_error_in_a_whole_answer_is_a_502(self, house: House) -> None:
        """A client that asked for a whole answer gets the server's message in a 502."""
        response = house.ask("llama", {"tokens": 3, "error_after": 1})
        assert (
            "the engine gave up"
            == check_error(response.status_code, response.json(), 502, "model_error", src="model")["message"]
        )

    def test_a_server_that_dies_in_the_middle_is_an_error(self, house: House) -> None:
        """The client gets one error event and no `done`; the next request starts the server again."""
        last = answer_events(house.ask("llama", {"tokens": 5, "delay_s": 0.05, "crash_after": 2}, stream=True))[-1]
        assert "model_died" == last["error"]["code"]
        assert "again" == house.ask("llama", "again").json()["text"]

    def test_a_client_that_leaves_ends_the_work(self, house: House) -> None:
        """Closing our stream aborts the server's."""
        house.ask("llama", "here").raise_for_status()
        before = last_request(house, "llama")["broken_off"]
        response = house.ask("llama", {"tokens": 1000, "delay_s": 0.05}, stream=True)
        next(response.iter_lines())
        response.close()
        until("the stream is broken off", lambda: last_request(house, "llama")["broken_off"] > before, 5)


class TestOpenAI:
    def test_an_alias_and_the_defaults_reach_the_server(self, house: House, client: OpenAI) -> None:
        """The server gets the id that it knows and `generation:`; the answer keeps the name that the client sent."""
        answer = client.chat.completions.create(model="lama", messages=user("hello"), max_tokens=5)
        assert ("lama", "hello") == (answer.model, answer.choices[0].message.content)
        body = last_request(house, "llama")["body"]
        assert ("llama", 0.5, 5) == (body["model"], body["temperature"], body["max_tokens"])

    @pytest.mark.parametrize("name", ["llama", "lama"])
    def test_a_stream_keeps_the_name(self, client: OpenAI, name: str) -> None:
        """Every chunk has the name that the client sent, and the text is complete."""
        chunks = list(client.chat.completions.create(model=name, messages=user({"tokens": 3}), stream=True))
        assert {name} == {chunk.model for chunk in chunks}
        assert "word0 word1 word2 " == "".join(chunk.choices[0].delta.content or "" for chunk in chunks)

    def test_the_servers_refusal_is_passed_on(self, client: OpenAI) -> None:
        """The server's own 400 is the client's BadRequestError; its fields are in our format."""
        with pytest.raises(openai.BadRequestError, match="as you wished") as failure:
            client.chat.completions.create(model="llama", messages=user({"status": 400}))
        assert "model_error" == failure.value.code

    def test_an_error_in_the_stream_raises(self, client: OpenAI) -> None:
        """A stream that breaks off raises an error in its reader."""
        stream = client.chat.completions.create(
            model="lama", messages=user({"tokens": 3, "error_after": 1}), stream=True
        )
        with pytest.raises(openai.APIError, match="the engine gave up"):
            list(stream)


def test_the_page_shows_a_whole_engine(
    build_house: Build, openai_image: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The engine that docs/engines.md shows as one file is complete: saved beside ours, it serves."""
    templates = tmp_path_factory.mktemp("own") / "templates"
    shutil.copytree(ROOT / "templates", templates)
    (example, *_) = re.findall(r"```jinja\n(.*?)```", (ROOT / "docs" / "engines.md").read_text(), re.DOTALL)
    (templates / "engines" / "mine.yaml.j2").write_text(example)
    model = {"engine": "mine", "image": openai_image, "env": {"FAKE_READY": "/v1/models"}}
    house = build_house({"m": model}, ORCHESTRAR_TEMPLATES=str(templates))
    assert "hello" == house.ask("m", "hello").json()["text"]
    response = house.post("/v1/completions", {"model": "m", "prompt": "x"})
    error = check_error(response.status_code, response.json(), 400, "task_unsupported")
    assert "serves /v1/chat/completions and not /v1/completions" in error["message"]


class TestContainer:
    def test_the_models_keys_become_arguments(self, house: House) -> None:
        """The server gets the context for all requests in flight, slots, threads, and the user's own arguments last."""
        house.ask("llama", "here").raise_for_status()
        others = last_request(house, "llama")["others"]
        pairs = dict(itertools.pairwise(others))
        assert ("2048", "4", "1") == (pairs["--ctx-size"], pairs["--parallel"], pairs["--threads"])
        assert "--no-repack" == others[-1]

    def test_a_source_without_its_file_is_an_error(self, house: House) -> None:
        """For a source that the server cannot load, the error names what it contains and what it should contain."""
        response = house.ask("wrong", "hello")
        error = check_error(response.status_code, response.json(), 503, "preparation_failed")
        assert "the llamacpp engine takes *.gguf" in error["message"]
        assert "model.safetensors" in error["message"]

    def test_it_is_hardened_like_any_other(self, house: House) -> None:
        """Its container is not root, read-only, without capabilities, on loopback, with its one file read-only."""
        house.ask("llama", "here").raise_for_status()
        (container,) = house.containers("llama")
        (details,) = json.loads(docker("inspect", container))
        host = details["HostConfig"]
        assert ("10001:10001", True, ["ALL"]) == (details["Config"]["User"], host["ReadonlyRootfs"], host["CapDrop"])
        assert [[{"HostIp": "127.0.0.1", "HostPort": str(house.status("llama")["port"])}]] == list(
            host["PortBindings"].values()
        )
        assert [("/model/model.gguf", False)] == [(mount["Destination"], mount["RW"]) for mount in details["Mounts"]]
        assert [] == house.status("llama")["relaxed"]

    def test_what_a_template_relaxes_works_and_is_shown(self, house: House) -> None:
        """vLLM's container may start programs from /tmp and has more shared memory, and /status shows the reasons."""
        assert "hello" == house.ask("relaxed", "hello").json()["text"]
        (container,) = house.containers("relaxed")
        build = "cp /bin/true /tmp/kernel.so && /tmp/kernel.so && df -B 1 --output=size /dev/shm | tail -1"
        assert str(2 << 30) == docker("exec", container, "sh", "-c", build).strip()
        assert "10001" == docker("exec", container, "id", "-u")
        reasons = {row["what"].partition(":")[0]: row["why"] for row in house.status("relaxed")["relaxed"]}
        assert {"tmpfs", "shm_size", "pids_limit"} == set(reasons)
        assert "Triton" in reasons["tmpfs"]

    def test_the_next_controller_adopts_it(self, house: House) -> None:
        """After the controller's death a running third-party server is found with its own port and health check."""
        house.ask("llama", "here").raise_for_status()
        (before,) = house.containers("llama")
        house.kill()
        house.start()
        assert "still" == house.ask("llama", "still").json()["text"]
        assert [before] == house.containers("llama")


def test_ollamas_api_reaches_it_too(house: House) -> None:
    """The `ollama` client works with a server that knows only the OpenAI API, whole and streamed."""
    with ollama.Client(house.url, timeout=60) as client:
        answer = client.chat("lama", user("hello"))
        assert ("lama", "hello") == (answer.model, answer.message.content)
        script = json.dumps({"tokens": 3})
        *parts, last = client.generate("lama", script, options={"seed": 7}, stream=True)
        assert "word0 word1 word2 " == "".join(part.response or "" for part in parts)
        assert last.done
        assert 7 == last_request(house, "llama")["body"]["seed"]
