"""The real `ollama` client with a real controller and fake models."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import ollama
import pytest
import requests

from tests.docker.conftest import Build
from tests.docker.house import House, until


@pytest.fixture(scope="module")
def house(build_house: Build) -> House:
    return build_house(
        {
            "echo": {"aliases": ["parrot"]},
            "made": {"gguf": True},
            "unmakeable": {"gguf": True, "env": {"FAKE_PREPARE_EXIT": "1"}},
        }
    )


@pytest.fixture
def client(house: House) -> Iterator[ollama.Client]:
    with ollama.Client(house.url, timeout=60) as client:
        yield client


def user(content: Any) -> Any:
    """Return one message; content that is not text is a script for the fake model."""
    return [{"role": "user", "content": content if isinstance(content, str) else json.dumps(content)}]


def counters(house: House) -> Any:
    return requests.get(f"http://127.0.0.1:{house.status('echo')['port']}/counters", timeout=5).json()


def test_a_stopped_model_answers(house: House, client: ollama.Client) -> None:
    """A chat with a stopped model works under its alias and with a tag; the answer says how long the load took."""
    answer = client.chat("parrot:latest", user("hello"))
    assert ("parrot:latest", "hello", "stop") == (answer.model, answer.message.content, answer.done_reason)
    assert (1, 1) == (answer.prompt_eval_count, answer.eval_count)
    assert answer.load_duration
    assert 1 == len(house.containers("echo"))


def test_a_stream_is_read_to_its_end(client: ollama.Client) -> None:
    """The streamed words add up on every route."""
    *parts, last = client.chat("echo", user({"tokens": 3}), stream=True)
    assert "word0 word1 word2 " == "".join(part.message.content or "" for part in parts)
    assert (True, "stop") == (last.done, last.done_reason)
    for raw in (False, True):
        pieces = client.generate("echo", json.dumps({"tokens": 2}), raw=raw, stream=True)
        assert "word0 word1 " == "".join(piece.response or "" for piece in pieces)


def test_a_model_that_dies_mid_stream_raises(house: House, client: ollama.Client) -> None:
    """A stream that breaks off raises an error in its reader; the next request starts the model again."""
    parts: list[Any] = []
    with pytest.raises(ollama.ResponseError, match="died"):
        parts.extend(client.chat("echo", user({"tokens": 5, "delay_s": 0.1, "crash_after": 2}), stream=True))
    assert ["word0 ", "word1 "] == [part.message.content for part in parts]
    until("Docker has noticed", lambda: not house.containers("echo"))
    assert "whole again" == client.chat("echo", user("whole again")).message.content


def test_a_client_that_leaves_ends_the_generation(house: House, client: ollama.Client) -> None:
    """Closing a stream ends the model's work within 2 s, and nothing stays in flight."""
    client.chat("echo", user("here"))
    before = counters(house)
    parts = iter(client.chat("echo", user({"tokens": 1000, "delay_s": 0.05}), stream=True))
    next(parts)
    parts.close()  # type: ignore[attr-defined]
    until("the stream is broken off", lambda: counters(house)["broken_off"] > before["broken_off"], 2)
    assert counters(house)["tokens"] - before["tokens"] < 60
    until("nothing is in flight", lambda: house.status("echo")["in_flight"] == 0, 5)


def test_keep_alive_is_obeyed(house: House, client: ollama.Client) -> None:
    """-1 keeps the model, 0 stops its container after the answer; `ps` shows which."""
    client.generate("echo", keep_alive=-1)
    (row,) = client.ps().models
    assert ("echo:latest", True) == (row.model, bool(row.expires_at))
    assert row.expires_at is not None
    assert row.expires_at > datetime.now(UTC) + timedelta(days=365)
    assert "x" == client.chat("echo", user("x"), keep_alive=0).message.content
    until("its container has ended", lambda: not house.containers("echo"), 15)
    client.generate("echo", keep_alive="5m")
    assert "unload" == client.generate("echo", keep_alive=0).done_reason
    assert [] == house.containers("echo")
    assert [] == client.ps().models


def test_a_pull_makes_the_first_start_short(house: House, client: ollama.Client) -> None:
    """A pull converts the model's files once and starts nothing; the first request then prepares nothing."""
    assert "absent" == next(row["state"] for row in house.get("/models").json()["models"] if row["id"] == "made")
    statuses = [one.status for one in client.pull("made", stream=True)]
    assert "success" == statuses[-1]
    assert [] == house.containers("made")
    with house.counted_events("create") as created:
        assert "success" == client.pull("made").status
        assert "ready" == client.chat("made", user("ready")).message.content
    assert [f"{house.project}-made-1"] == created
    models = {one.model: one for one in client.list().models}
    assert models["made:latest"].size == 68
    assert client.show("made").modelinfo == {
        "general.architecture": "unknown",
        "general.parameter_count": 500,
        "unknown.context_length": 128,
        "orchestrar.engine": "openvino",
        "orchestrar.engine_reason": "the name of its source says so, and `image` is for one engine",
    }


def test_a_pull_that_fails_says_why(client: ollama.Client) -> None:
    """The conversion's last message reaches the client that pulls, streamed or not."""
    for stream in (False, True):
        with pytest.raises(ollama.ResponseError, match="the fake fails as FAKE_PREPARE_EXIT says"):
            list(client.pull("unmakeable", stream=stream))


def test_pulls_at_once_prepare_once(build_house: Build) -> None:
    """Five pulls and a request at the same time run one conversion."""
    house = build_house({"made": {"gguf": True}})
    with house.counted_events("create") as created, ThreadPoolExecutor(6) as pool:
        answer = pool.submit(house.ask, "made", "hello")
        pulls = list(pool.map(lambda _: house.post("/pull", {"model_id": "made"}), range(5)))
        assert "hello" == answer.result().json()["text"]
    assert [200] * 5 == [response.status_code for response in pulls]
    assert 2 == len(created)
