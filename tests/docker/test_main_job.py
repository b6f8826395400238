"""The main job on the real engine, with the scriptable fake model."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
import requests

from tests.docker.conftest import Build
from tests.docker.house import House, docker, until


@pytest.fixture(scope="module")
def house(build_house: Build) -> House:
    return build_house(
        {
            "echo": {"aliases": ["parrot"]},
            "slow": {"env": {"FAKE_START_S": "1.5"}},
            "crashing": {"env": {"FAKE_EXIT": "3"}},
            "stubborn": {"env": {"FAKE_IGNORE_TERM": "1"}},
            "made": {"gguf": True},
            "unmakeable": {"gguf": True, "env": {"FAKE_PREPARE_EXIT": "1"}},
        }
    )


def error_of(response: requests.Response) -> dict[str, Any]:
    error: dict[str, Any] = response.json()["error"]
    return error


def test_a_stopped_model_answers(house: House) -> None:
    """A request to a model that is not running starts its container and returns its answer, by id or alias."""
    assert house.containers("echo") == []
    answer = house.ask("parrot", "hello").json()
    assert (answer["model_id"], answer["text"]) == ("echo", "hello")
    assert answer["timings"]["start_s"] > 0
    assert len(house.containers("echo")) == 1
    assert house.ask("echo", "again").json()["timings"]["start_s"] == 0


def test_a_stream_arrives_token_by_token(house: House) -> None:
    """Streamed tokens arrive as they are made: the first long before the last."""
    started_at = time.monotonic()
    response = house.ask("echo", {"tokens": 5, "delay_s": 0.3}, stream=True)
    assert response.headers["Content-Type"].startswith("text/event-stream")
    times, texts = [], []
    for line in response.iter_lines():
        if line.startswith(b"data: "):
            texts.append(json.loads(line[6:]).get("text"))
            times.append(time.monotonic() - started_at)
    assert texts == ["word0 ", "word1 ", "word2 ", "word3 ", "word4 ", None]
    assert times[4] - times[0] > 0.6


def test_a_model_that_dies_before_its_answer_is_asked_again(house: House) -> None:
    """A request to a model that was killed while idle starts it again, and is not lost."""
    house.ask("echo", "warm").raise_for_status()
    docker("kill", *house.containers("echo"))
    assert house.ask("echo", "still there?").json()["text"] == "still there?"


def test_a_failed_start_shows_its_card(house: House) -> None:
    """For a model that ends at its start the answer is 503 with phase, exit code and its last log lines."""
    response = house.ask("crashing", "hello")
    error = error_of(response)
    assert (response.status_code, error["code"]) == (503, "start_failed")
    assert error["details"]["exit_code"] == 3
    assert error["details"]["log"] == ["the fake exits as FAKE_EXIT says"]
    assert "Retry-After" in response.headers
    row = next(row for row in house.get("/models").json()["models"] if row["id"] == "crashing")
    assert (row["state"], row["error"]["code"]) == ("failed", "start_failed")


def test_stop_ends_and_verifies(house: House) -> None:
    """`POST /stop` ends the container, even one that ignores SIGTERM, and a later request starts it again."""
    house.ask("stubborn", "hello").raise_for_status()
    assert house.post("/stop", {"model_id": "stubborn"}).json() == {"model_id": "stubborn", "state": "stopped"}
    assert house.containers("stubborn") == []
    assert house.ask("stubborn", "again").json()["text"] == "again"


def test_run_starts_without_waiting(house: House) -> None:
    """`POST /run` answers 202 at once with `wait: false`, and 200 with port and url when it waited."""
    house.post("/stop", {"model_id": "slow"})
    response = house.post("/run", {"model_id": "slow", "wait": False})
    assert (response.status_code, response.json()["state"]) == (202, "starting")
    response = house.post("/run", {"model_id": "slow"})
    body = response.json()
    assert (response.status_code, body["state"]) == (200, "ready")
    assert requests.get(body["url"] + "/health", timeout=5).ok


def test_preparing_happens_once(house: House) -> None:
    """A model that needs converting is prepared at its first start and never again; its files can be deleted."""
    with house.counted_events("create") as created:
        house.ask("made", "one").raise_for_status()
    assert sorted(name.split("-")[-2] for name in created) == ["made", "made..prepare"]
    house.post("/stop", {"model_id": "made"}).raise_for_status()
    with house.counted_events("create") as created:
        house.ask("made", "two").raise_for_status()
    assert created == []
    assert house.post("/stop", {"model_id": "made"}).ok
    assert requests.delete(f"{house.url}/models/made/files", timeout=30).ok
    labels = ("label=orchestrar.prepare=made", f"label=com.docker.compose.project={house.project}")
    assert docker("volume", "ls", "-q", *(x for label in labels for x in ("--filter", label))).split() == []


def test_an_emptied_volume_is_filled_again(house: House) -> None:
    """`docker compose down --volumes` by hand costs a new preparation, not a failed request."""
    house.ask("made", "one").raise_for_status()
    house.post("/stop", {"model_id": "made"}).raise_for_status()
    house.compose("--profile", "*", "down", "--volumes")
    assert house.ask("made", "two").json()["text"] == "two"


def test_a_failed_preparation_is_explained(house: House) -> None:
    """For a conversion that fails the answer is 503 with the converter's own message."""
    response = house.ask("unmakeable", "hello")
    error = error_of(response)
    assert (response.status_code, error["code"]) == (503, "preparation_failed")
    assert "the fake fails as FAKE_PREPARE_EXIT says" in error["message"]


def test_the_models_own_errors_are_passed_on(house: House) -> None:
    """An error of the model itself reaches the client with its status and `src: model`."""
    response = house.ask("echo", {"status": 400})
    assert response.status_code == 400
    assert (error_of(response)["message"], error_of(response)["src"]) == ("as you wished", "model")


def test_keep_alive_0_stops_the_model(house: House) -> None:
    """`keep_alive: 0` stops the model right after the request."""
    house.ask("echo", "bye", keep_alive=0).raise_for_status()
    until("the container has ended", lambda: house.containers("echo") == [], 10)
