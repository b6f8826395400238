"""F5: a model that hangs is unready within 15 s and nobody waits for it; a pause by hand is respected and named."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from tests.conftest import Figure
from tests.docker.conftest import Build
from tests.docker.house import House, docker, until
from tests.promises.mutation import Mutation

MUTATION = Mutation(
    "controller/supervisor/slot.py",
    'if container is not None and container.status == "paused":',
    "if False:",
    "test_f5_a_pause_by_hand",
)
# The promise; and what a client may wait beyond it for its own answer to arrive.
UNREADY_WITHIN_S = 15.0
SLACK_S = 3.0
LONG = {"tokens": 800, "delay_s": 0.05}


@pytest.fixture(scope="module")
def house(build_house: Build) -> House:
    return build_house({"paused": {}, "stopped": {}, "busy": {}})


def begun_stream(house: House, model_id: str) -> Any:
    """The lines of a stream that has begun."""
    lines = house.ask(model_id, LONG, stream=True).iter_lines()
    next(lines)
    return lines


def last_event(lines: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads([line for line in lines if line.startswith(b"data: ")][-1][6:])
    return found


def signal_all(container: str, name: str) -> None:
    """To all that runs inside but its init, which hangs for nobody."""
    docker("exec", container, "sh", "-c", f"kill -{name} -1")


def whole_answer(house: House, model_id: str) -> requests.Response:
    return house.ask(model_id, LONG)


def test_f5_a_pause_by_hand(house: House) -> None:
    """A stream that is paused ends with an error event and a whole answer with 504; new requests get 503 with the way
    on; the container stays paused until its owner lets it go on, and serves then."""
    lines = begun_stream(house, "paused")
    (container,) = house.containers("paused")
    with ThreadPoolExecutor(1) as pool:
        whole = pool.submit(whole_answer, house, "paused")
        until("both are in flight", lambda: house.status("paused")["in_flight"] == 2)
        docker("pause", container)
        paused_at = time.monotonic()
        until("the pause is noticed", lambda: house.status("paused")["state"] == "paused", UNREADY_WITHIN_S)

        refused = house.ask("paused", "hello")
        error = refused.json()["error"]
        assert (refused.status_code, error["code"]) == (503, "model_paused")
        assert f"docker unpause {house.project}-paused-1" in error["message"]

        event = last_event(lines)
        assert time.monotonic() - paused_at < UNREADY_WITHIN_S + SLACK_S
        assert event["error"]["code"] == "upstream_timeout"
        assert "docker unpause" in event["error"]["message"]
        assert whole.result(SLACK_S).status_code == 504

    assert docker("inspect", "--format", "{{.State.Status}}", container) == "paused"
    docker("unpause", container)
    until("it serves again", lambda: house.status("paused")["state"] == "ready", 10)
    assert house.ask("paused", "again").json()["text"] == "again"
    assert house.containers("paused") == [container]


def test_f5_a_short_pause_costs_nothing(house: House) -> None:
    """A stream goes on after a pause of a moment, such as `docker commit` makes."""
    stream = house.ask("paused", {"tokens": 40, "delay_s": 0.05}, stream=True)
    lines = stream.iter_lines()
    next(lines)
    (container,) = house.containers("paused")
    docker("pause", container)
    time.sleep(1)
    docker("unpause", container)
    assert last_event(lines)["done"] is True


def test_f5_a_hung_process(house: House) -> None:
    """A process that is stopped from outside is unready within 15 s: its stream ends with an error event, a whole
    answer with 504, and the next request starts it."""
    lines = begun_stream(house, "stopped")
    (container,) = house.containers("stopped")
    with ThreadPoolExecutor(1) as pool:
        whole = pool.submit(whole_answer, house, "stopped")
        until("both are in flight", lambda: house.status("stopped")["in_flight"] == 2)
        signal_all(container, "STOP")
        hung_at = time.monotonic()
        event = last_event(lines)
        assert time.monotonic() - hung_at < UNREADY_WITHIN_S + SLACK_S
        assert event["error"]["code"] == "upstream_timeout"
        assert "hung" in event["error"]["message"]
        assert whole.result(SLACK_S).status_code == 504
    with house.counted_events("start") as started:
        assert house.ask("stopped", "hello").json()["text"] == "hello"
    assert len(started) == 1


def test_f5_idle_ones_that_hang(house: House, figure: Figure) -> None:
    """A hang is found without any request, so that the next one need not wait for it; of several as fast as of one."""
    names = ("paused", "stopped", "busy")
    for name in names:
        house.ask(name, "hello").raise_for_status()
    containers = [container for name in names for container in house.containers(name)]
    assert len(containers) == len(names)
    for container in containers:
        signal_all(container, "STOP")
    hung_at = time.monotonic()
    until("they are unready", lambda: "ready" not in [house.status(name)["state"] for name in names], UNREADY_WITHIN_S)
    figure("three hung processes are unready after", f"{time.monotonic() - hung_at:.1f} s")
    until("they are ended", lambda: [] == [found for name in names for found in house.containers(name)])


def test_f5_a_busy_model_is_not_hung(house: House) -> None:
    """A model whose processor works is left alone, though its server answers nobody."""
    house.ask("busy", "hello").raise_for_status()
    (container,) = house.containers("busy")
    signal_all(container, "STOP")
    docker("exec", "--detach", container, "timeout", "40", "python", "-c", "while True: pass")
    time.sleep(UNREADY_WITHIN_S + SLACK_S)
    assert house.containers("busy") == [container]
    signal_all(container, "CONT")
    assert house.ask("busy", "still here").json()["text"] == "still here"
