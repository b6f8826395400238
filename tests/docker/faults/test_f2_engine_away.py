"""F2: an engine that ends or hangs degrades the controller and nothing else, and everything recovers by itself.

A gate before the engine's socket stands for the engine, so that no other containers are in danger.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Figure
from tests.docker.conftest import Build
from tests.docker.docker_gate import Gate
from tests.docker.house import House, docker, until
from tests.promises.mutation import Mutation

MUTATION = Mutation(
    "controller/docker/calls.py",
    'client_call=["timeout", f"--kill-after={KILL_AFTER_S}", f"{deadline_s:g}", "docker"],',
    'client_call=["docker"],',
    "test_f2_an_engine_that_hangs",
)
HEALTH_WITHIN_S = 0.5
HEALTH_TOOK_S: list[float] = []
# The controller waits five seconds for the engine; and Python starts slowly on a busy machine.
UP_WITHIN_S = 15.0
# A look's deadline and the time in which its process must end, twice, and what a busy machine adds.
REFUSED_WITHIN_S = 30.0
# The longest deadline of a command that the hung engine got, and the pause before the next look.
RECOVERED_WITHIN_S = 45.0


@pytest.fixture
def house(build_house: Build, gate: Gate) -> House:
    house = build_house({"serves": {}, "sleeps": {}}, DOCKER_HOST=gate.url)
    house.ask("serves", "hello").raise_for_status()
    return house


def health(house: House) -> dict[str, Any]:
    """Return the body of /health, and check that it is never late."""
    started_at = time.monotonic()
    body: dict[str, Any] = house.get("/health").json()
    HEALTH_TOOK_S.append(time.monotonic() - started_at)
    assert HEALTH_TOOK_S[-1] < HEALTH_WITHIN_S
    return body


def zombies(house: House) -> int:
    """Return how many children of the controller have ended and are not reaped."""
    worker, count = str(house.worker_pid()), 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text().rpartition(") ")[2].split()[:2]
        except OSError:
            continue
        count += state == "Z" and parent == worker
    return count


def is_quiet(house: House) -> bool:
    """Tell whether one `docker events` is the controller's only child."""
    commands = list(house.docker_commands().values())
    return len(commands) == 1 and " events " in commands[0] and zombies(house) == 0


def check_recovery(house: House) -> None:
    """Check that starts work again in the same controller, that it hears events, and that no command is left over."""
    until("the controller is healthy again", lambda: health(house)["status"] == "ok", RECOVERED_WITHIN_S)
    assert house.ask("sleeps", "good morning").json()["text"] == "good morning"
    house.compose("kill", "serves")
    until("the controller hears events", lambda: house.status("serves")["state"] == "stopped", RECOVERED_WITHIN_S)
    # Polled, since looks at Docker begin and end all the time; with a leftover it would never come true.
    until("only docker events is left, and no zombie", lambda: is_quiet(house), 20)


def check_stays_stopped(house: House, model_id: str) -> None:
    """Check that nothing is started, once the controller hears events again and so has looked at what it missed."""
    assert house.ask("lazy", "hello").ok
    house.compose("kill", "lazy")
    until("the controller hears events", lambda: house.status("lazy")["state"] == "stopped", RECOVERED_WITHIN_S)
    assert (house.status(model_id)["state"], house.containers(model_id)) == ("stopped", [])


def test_f2_an_engine_that_restarts(house: House, gate: Gate, figure: Figure) -> None:
    """While the engine is away /health says so at once, the ready model serves, and only a start gets 503."""
    pid = house.worker_pid()
    gate.shut()
    until("the controller is degraded", lambda: health(house)["status"] == "degraded", 5)
    assert house.ask("serves", "still here").json()["text"] == "still here"
    refusal = house.ask("sleeps", "hello")
    assert (refusal.status_code, refusal.json()["error"]["code"]) == (503, "docker_unavailable")
    assert "Retry-After" in refusal.headers
    gate.open()
    check_recovery(house)
    assert house.worker_pid() == pid
    figure("slowest /health", f"{1000 * max(HEALTH_TOOK_S):.0f} ms of {len(HEALTH_TOOK_S)}")


def test_f2_an_engine_that_hangs(house: House, gate: Gate, figure: Figure) -> None:
    """While the engine hangs the same holds: each command ends at its deadline, and only a start waits for it."""
    pid = house.worker_pid()
    gate.freeze()
    with ThreadPoolExecutor(1) as pool:
        start = pool.submit(house.ask, "sleeps", "hello")
        until("the controller is degraded", lambda: health(house)["status"] == "degraded", 10)
        while not start.done():
            assert house.ask("serves", "still here").json()["text"] == "still here"
            assert health(house)["status"] == "degraded"
            time.sleep(0.2)
        refusal = start.result()
    assert (refusal.status_code, refusal.json()["error"]["code"]) == (503, "docker_unavailable")
    assert refusal.elapsed.total_seconds() < REFUSED_WITHIN_S
    assert docker("ps", "--quiet") != ""
    gate.thaw()
    check_recovery(house)
    assert house.worker_pid() == pid
    figure("slowest /health", f"{1000 * max(HEALTH_TOOK_S):.0f} ms of {len(HEALTH_TOOK_S)}")


def test_f2_a_controller_that_starts_meanwhile(house: House, gate: Gate, figure: Figure) -> None:
    """A controller that starts beside a hung engine comes up degraded; afterwards it adopts what kept running."""
    (container,) = house.containers("serves")
    house.kill()
    gate.freeze()
    started_at = time.monotonic()
    house.start()
    up_s = time.monotonic() - started_at
    assert health(house)["status"] == "degraded"
    assert up_s < UP_WITHIN_S
    gate.thaw()
    until("it is adopted", lambda: house.status("serves")["state"] == "ready", RECOVERED_WITHIN_S)
    assert [container] == house.containers("serves")
    figure("a controller started beside a hung engine answers after", f"{up_s:.1f} s")
    check_recovery(house)


def test_f2_a_controller_that_boots_before_the_engine(build_house: Build, gate: Gate, figure: Figure) -> None:
    """As after a reboot: once the engine is there, a model with `preload` becomes ready without a request, and again
    after the engine's end has ended it; a model that was stopped stays stopped."""
    house = build_house({"preloaded": {"preload": True}, "lazy": {}}, start=False, DOCKER_HOST=gate.url)
    gate.shut()
    house.start()
    assert health(house)["status"] == "degraded"
    gate.open()
    started_at = time.monotonic()
    until("it is ready", lambda: house.status("preloaded")["state"] == "ready", RECOVERED_WITHIN_S)
    figure("a preloaded model is ready after the engine is", f"{time.monotonic() - started_at:.1f} s")
    assert house.containers("lazy") == []
    gate.shut()
    house.compose("kill", "preloaded")
    gate.open()
    until("it runs again", lambda: len(house.containers("preloaded")) == 1, RECOVERED_WITHIN_S)
    until("it is ready again", lambda: house.status("preloaded")["state"] == "ready", RECOVERED_WITHIN_S)
    assert house.post("/stop", {"model_id": "preloaded"}).ok
    gate.shut()
    gate.open()
    until("the controller is healthy again", lambda: health(house)["status"] == "ok", RECOVERED_WITHIN_S)
    check_stays_stopped(house, "preloaded")
    figure("slowest /health", f"{1000 * max(HEALTH_TOOK_S):.0f} ms of {len(HEALTH_TOOK_S)}")
