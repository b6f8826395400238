"""F2: an engine that ends or hangs degrades the controller and nothing else, and all recovers by itself.

A gate before the engine's socket stands for the engine, so that nobody else's containers are in danger.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.docker.conftest import Build
from tests.docker.docker_gate import Gate
from tests.docker.house import House, docker, until
from tests.promises.mutation import Mutation

MUTATION = Mutation(
    "controller/docker_service/calls.py",
    'client_call=["timeout", f"--kill-after={KILL_AFTER_S}", f"{deadline_s:g}", "docker"],',
    'client_call=["docker"],',
    "test_f2_an_engine_that_hangs",
)
HEALTH_WITHIN_S = 0.5
# A look's deadline and the moment that its process has to end, twice, and what a busy machine adds.
REFUSED_WITHIN_S = 30.0
# The longest deadline of a command that a hung engine had been given, and the pause before the next look.
RECOVERED_WITHIN_S = 45.0


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    made = Gate(tmp_path)
    made.open()
    yield made
    made.shut()


@pytest.fixture
def house(build_house: Build, gate: Gate) -> House:
    made = build_house({"serves": {}, "sleeps": {}}, DOCKER_HOST=gate.url)
    made.ask("serves", "hello").raise_for_status()
    return made


def health(house: House) -> dict[str, Any]:
    """The body of /health, which is never late."""
    begun = time.monotonic()
    body: dict[str, Any] = house.get("/health").json()
    assert time.monotonic() - begun < HEALTH_WITHIN_S
    return body


def docker_processes(house: House) -> dict[int, str]:
    """The docker commands that this house's controller runs, or has not collected: pid → command line."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            mine = f"ORCHESTRAR_PROJECT={house.project}\0".encode() in (folder / "environ").read_bytes()
        except OSError:
            continue
        command = b" ".join(words).decode(errors="replace")
        if mine and words[0].rsplit(b"/", 1)[-1] in (b"docker", b"timeout", b"docker-compose"):
            found[int(folder.name)] = command
    return found


def zombies(house: House) -> int:
    """Children of the controller that have ended and were not collected."""
    worker, count = str(house.worker_pid()), 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text().rpartition(") ")[2].split()[:2]
        except OSError:
            continue
        count += state == "Z" and parent == worker
    return count


def check_recovery(house: House) -> None:
    """Starts work again in the same controller, events are heard again, and no command is left over."""
    until("it is well again", lambda: health(house)["status"] == "ok", RECOVERED_WITHIN_S)
    assert house.ask("sleeps", "good morning").json()["text"] == "good morning"
    house.compose("kill", "serves")
    until("events are heard", lambda: house.status("serves")["state"] == "stopped", RECOVERED_WITHIN_S)
    until("only docker events runs", lambda: all(" events " in c for c in docker_processes(house).values()), 20)
    assert len(docker_processes(house)) == 1
    assert zombies(house) == 0


def test_f2_an_engine_that_restarts(house: House, gate: Gate) -> None:
    """While it is away /health says so at once, the ready model serves, and only a start gets 503."""
    pid = house.worker_pid()
    gate.shut()
    until("it is degraded", lambda: health(house)["status"] == "degraded", 5)
    assert house.ask("serves", "still here").json()["text"] == "still here"
    refused = house.ask("sleeps", "hello")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "docker_unavailable")
    assert "Retry-After" in refused.headers
    gate.open()
    check_recovery(house)
    assert house.worker_pid() == pid


def test_f2_an_engine_that_hangs(house: House, gate: Gate) -> None:
    """While it hangs the same holds: each command ends at its deadline, and no request waits for it but a start."""
    pid = house.worker_pid()
    gate.freeze()
    with ThreadPoolExecutor(1) as pool:
        start = pool.submit(house.ask, "sleeps", "hello")
        until("it is degraded", lambda: health(house)["status"] == "degraded", 10)
        while not start.done():
            assert house.ask("serves", "still here").json()["text"] == "still here"
            assert health(house)["status"] == "degraded"
            time.sleep(0.2)
        refused = start.result()
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "docker_unavailable")
    assert refused.elapsed.total_seconds() < REFUSED_WITHIN_S
    assert docker("ps", "--quiet") != ""
    gate.thaw()
    check_recovery(house)
    assert house.worker_pid() == pid
