"""F6: `docker compose stop`, `down`, `rm` and `up` by hand are noticed within 10 s, and the next request works."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest

from tests.conftest import Figure
from tests.docker.conftest import Build
from tests.docker.house import House, docker, until
from tests.promises.mutation import Mutation

MUTATION = Mutation(
    "controller/supervisor/slot.py",
    'elif container is not None and container.status == "running":',
    "elif False:",
    "test_f6_an_up_by_hand_is_adopted",
)
NOTICED_WITHIN_S = 10.0

BY_HAND: dict[str, Callable[[House], object]] = {
    "stop": lambda house: house.compose("stop", "--timeout", "1", "echo"),
    "kill": lambda house: house.compose("kill", "echo"),
    "rm": lambda house: house.compose("rm", "--stop", "--force", "echo"),
    "down": lambda house: house.compose("--profile", "models", "down", "--timeout", "1"),
}


@pytest.fixture(scope="module")
def house(build_house: Build) -> House:
    return build_house({"echo": {}, "loading": {"env": {"FAKE_START_S": "5"}}})


def state(house: House, model_id: str = "echo") -> str:
    return str(house.status(model_id)["state"])


@pytest.mark.parametrize("deed", BY_HAND)
def test_f6_an_end_by_hand(house: House, deed: str, figure: Figure) -> None:
    """Without any request the state follows, and the next request starts the model again."""
    house.ask("echo", "hello").raise_for_status()
    BY_HAND[deed](house)
    done_at = time.monotonic()
    until("the state follows", lambda: state(house) == "stopped", NOTICED_WITHIN_S)
    figure(f"{deed} noticed after", f"{time.monotonic() - done_at:.1f} s")
    assert house.ask("echo", "again").json()["text"] == "again"


@pytest.mark.parametrize("deed", BY_HAND)
def test_f6_an_end_by_hand_in_mid_stream(house: House, deed: str) -> None:
    """The stream ends with an error event and without its proper end, and a request right after it works."""
    lines = house.ask("echo", {"tokens": 2000, "delay_s": 0.05}, stream=True).iter_lines()
    next(lines)
    BY_HAND[deed](house)
    told = [json.loads(line[6:]) for line in lines if line.startswith(b"data: ")]
    assert told[-1]["error"]["code"] == "model_died"
    assert not any(event.get("done") for event in told)
    assert house.ask("echo", "again").json()["text"] == "again"


def test_f6_an_up_by_hand_is_adopted(house: House) -> None:
    """A container that the user started is served from, is not started twice, and idles out like any other."""
    house.ask("echo", "hello").raise_for_status()
    house.compose("rm", "--stop", "--force", "echo")
    until("the state follows", lambda: state(house) == "stopped", NOTICED_WITHIN_S)
    house.compose("up", "--detach", "echo")
    (by_hand,) = house.containers("echo")
    until("it is adopted", lambda: state(house) == "ready", NOTICED_WITHIN_S)
    with house.counted_events("start") as started:
        assert house.ask("echo", "hello").json()["text"] == "hello"
    assert started == []
    assert house.status("echo")["container"]["id"] == by_hand[:12]


def test_f6_a_restart_by_hand_is_waited_for(house: House) -> None:
    """After `docker restart` requests wait for the model to load again, and none of them fails."""
    house.ask("loading", "hello").raise_for_status()
    (container,) = house.containers("loading")
    docker("restart", "--time", "1", container)
    until("it is noticed", lambda: state(house, "loading") != "ready", NOTICED_WITHIN_S)
    assert house.ask("loading", "again").json()["text"] == "again"
    assert house.containers("loading") == [container]
