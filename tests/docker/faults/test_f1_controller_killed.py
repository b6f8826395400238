"""F1: the controller killed with -9 at any step."""

from __future__ import annotations

import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest
import requests

from tests.conftest import Figure
from tests.docker.conftest import Build
from tests.docker.house import House, docker, fake_models, until
from tests.promises.mutation import Mutation

BOUND_S = 10.0
TOOK_S: list[float] = []
MUTATION = Mutation(
    "controller/supervisor/slot.py",
    'elif container is not None and container.status == "running":',
    'elif container is not None and container.status == "paused":',
    "test_f1_the_next_controller_finds_all_right",
)
# Point → what leads to it: the boot with another models.yaml, a start, or a stop of a running model.
POINTS = {
    "rendered": "boot",
    "half written": "boot",
    "renamed": "boot",
    "created": "/run",
    "started": "/run",
    "ready": "/run",
    "resumed": "/run",
    "stopping": "/stop",
    "stopped": "/stop",
}


def all_containers(house: House, model_id: str) -> list[str]:
    filters = [f"label=com.docker.compose.project={house.project}", f"label=orchestrar.model={model_id}"]
    return docker("ps", "-aq", "--no-trunc", *(x for f in filters for x in ("--filter", f))).split()


def crash(house: House, point: str, armed: Path) -> None:
    """Bring the controller to its point; returns when it is dead."""
    way = POINTS[point]
    if way == "boot":
        armed.touch()
        text = (house.folder / "models.yaml").read_text()
        house.write_models(text.replace('"memory": "128m"', f'"memory": "{129 + len(armed.parts[-2])}m"', 1))
        house.launch("tests.docker.faults.crashing_app:create_app()")
    else:
        house.start("tests.docker.faults.crashing_app:create_app()")
        if way == "/stop" or point == "resumed":
            house.ask("echo", "hello").raise_for_status()
        if point == "resumed":
            house.post("/stop", {"model_id": "echo"}).raise_for_status()
        armed.touch()
        with suppress(requests.ConnectionError):
            house.post(way, {"model_id": "echo"})
    assert house.await_death() == -signal.SIGKILL
    armed.unlink()


@pytest.mark.parametrize("point", POINTS)
def test_f1_the_next_controller_finds_all_right(build_house: Build, tmp_path: Path, point: str, figure: Figure) -> None:
    """Wherever it dies, its files can be read, and the next one knows within 10 s what runs: a model that ran does so
    still, and no model has two containers."""
    armed = tmp_path / "armed"
    house = build_house({"kept": {}, "echo": {}}, ORCHESTRAR_TEST_CRASH=f"{point}:{armed}")
    house.ask("kept", "hello").raise_for_status()
    (kept,) = house.containers("kept")
    assert 0 == house.terminate()
    crash(house, point, armed)
    assert [kept] == house.containers("kept")
    house.compose("config", "--quiet")

    begun = time.monotonic()
    house.start()
    truth = "ready" if house.containers("echo") else "stopped"
    until("the running model is adopted", lambda: house.status("kept")["state"] == "ready", BOUND_S)
    until(f"the other is {truth}", lambda: house.status("echo")["state"] == truth, BOUND_S)
    took_s = time.monotonic() - begun
    TOOK_S.append(took_s)
    figure("points of death", len(TOOK_S))
    figure("right again within", f"{max(TOOK_S):.1f} s")
    assert took_s < BOUND_S
    for model_id in ("kept", "echo"):
        assert "fine" == house.ask(model_id, "fine").json()["text"]
        assert 1 == len(all_containers(house, model_id))
    assert [kept] == house.containers("kept")


@pytest.mark.parametrize("is_removed", [False, True], ids=["model stays", "model removed"])
def test_f1_a_conversion_is_not_left_behind(
    build_house: Build, tmp_path: Path, is_removed: bool, figure: Figure
) -> None:
    """A conversion whose controller died is ended by the next one, which begins it anew where somebody wants it."""
    armed = tmp_path / "armed"
    slow = {"gguf": True, "env": {"FAKE_PREPARE_S": "300"}}
    house = build_house({"kept": {}, "made": slow}, start=False, ORCHESTRAR_TEST_CRASH=f"preparing:{armed}")
    house.start("tests.docker.faults.crashing_app:create_app()")
    armed.touch()
    with suppress(requests.ConnectionError):
        house.post("/pull", {"model_id": "made"})
    house.await_death()
    assert 1 == len(house.preparing("made"))

    house.write_models(fake_models(house.folder, {"kept": {}} if is_removed else {"kept": {}, "made": {"gguf": True}}))
    begun = time.monotonic()
    house.start()
    until("nothing is being converted", lambda: house.preparing("made") == [], BOUND_S)
    figure("a conversion is ended within", f"{time.monotonic() - begun:.1f} s")
    if not is_removed:
        assert "fine" == house.ask("made", "fine").json()["text"]
