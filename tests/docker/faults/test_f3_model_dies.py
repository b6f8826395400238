"""F3: a model that dies in a stream is reported; one that dies before its first byte is asked again."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from tests.conftest import Figure
from tests.docker.conftest import Build
from tests.docker.faults.streams import Reader
from tests.docker.house import House, docker, until
from tests.errorshape import check_error
from tests.promises.mutation import Mutation

MUTATION = Mutation(
    "controller/proxy/forwarding.py",
    "for last_try in (False, True):",
    "for last_try in (True,):",
    "test_f3_a_model_that_dies_before_its_first_byte_is_asked_again",
)
ROUTES = ["/inference", "/v1/chat/completions"]


@pytest.fixture(scope="module")
def house(build_house: Build) -> House:
    """Return a house whose model dies so often that it would back off; `POST /run` before each test resets that."""
    return build_house({"echo": {}})


def ask(house: House, route: str, script: dict[str, Any], *, stream: bool) -> requests.Response:
    prompt = json.dumps(script)
    fields = {"messages": [{"role": "user", "content": prompt}]} if "chat" in route else {"prompt": prompt}
    body = {"model_id" if route == "/inference" else "model": "echo", "stream": stream, **fields}
    return house.post(route, body, stream=stream)


@pytest.mark.parametrize("route", ROUTES)
def test_f3_a_death_in_a_stream_is_an_error_event(house: House, route: str, figure: Figure) -> None:
    """After `docker kill` in a stream there is one error event within 2 s, nothing after it, and never `[DONE]`."""
    house.post("/run", {"model_id": "echo"}).raise_for_status()
    stream = Reader(ask(house, route, {"tokens": 500, "delay_s": 0.05}, stream=True))
    assert stream.has_begun.wait(30)
    containers = house.containers("echo")
    killed_at = time.monotonic()
    docker("kill", *containers)
    *words, last = stream.read(10)
    figure(f"error event on {route} after", f"{stream.ended_at - killed_at:.2f} s")
    assert stream.ended_at - killed_at < 2
    assert last is not None
    assert "model_died" == last["error"]["code"]
    assert [] == [word for word in words if word is None or "error" in word or "done" in word]
    assert "alive" == house.ask("echo", "alive").json()["text"]


@pytest.mark.parametrize("early_head", [False, True], ids=["late head", "early head"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_f3_a_model_that_dies_before_its_first_byte_is_asked_again(
    house: House, stream: bool, early_head: bool, figure: Figure
) -> None:
    """After `docker kill` before the client's first byte the model is started once more, and the answer is complete."""
    house.post("/run", {"model_id": "echo"}).raise_for_status()
    port = house.status("echo")["port"]
    before = requests.get(f"http://127.0.0.1:{port}/counters", timeout=5).json()["prefill_steps"]
    script = {"prefill_s": 3, "tokens": 3, "early_head": early_head}
    (container,) = house.containers("echo")
    with ThreadPoolExecutor(1) as pool, house.counted_events("start") as starts:
        answer = pool.submit(ask, house, "/inference", script, stream=stream)
        counters = f"http://127.0.0.1:{port}/counters"
        until("the model works", lambda: requests.get(counters, timeout=5).json()["prefill_steps"] > before, 5)
        docker("kill", container)
        response = answer.result(60)
        text = response.text
    assert 200 == response.status_code, text
    assert all(f"word{number} " in text for number in range(3))
    assert "error" not in text
    figure("restarts", len(starts))
    assert 1 == len(starts)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_f3_a_model_that_dies_of_the_request_is_asked_twice(house: House, stream: bool) -> None:
    """A request that kills the model each time is a 502 after its second death, and not asked for ever."""
    house.post("/run", {"model_id": "echo"}).raise_for_status()
    with house.counted_events("die") as died:
        response = ask(house, "/inference", {"crash_after": 0}, stream=stream)
        check_error(response.status_code, response.json(), 502, "model_died")
    assert 2 == len(died)
