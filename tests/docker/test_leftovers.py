"""Containers of models that were removed from models.yaml while the controller was down."""

from __future__ import annotations

from pathlib import Path

from tests.docker.conftest import Build
from tests.docker.docker_gate import Gate
from tests.docker.house import FAKE_IMAGE, House, docker, fake_models, until


def run_beside(house: House, name: str, *labels: str) -> str:
    """Run a container that is not ours, and return its id."""
    flags = [flag for label in labels for flag in ("--label", label)]
    return docker("run", "--detach", "--name", f"{house.project}-{name}", *flags, FAKE_IMAGE, "sleep", "300")


def exists(container: str) -> bool:
    return docker("ps", "-aq", "--no-trunc", "--filter", f"id={container}") != ""


def test_a_removed_model_leaves_nothing_running(build_house: Build) -> None:
    """At the next start its container is stopped and removed; a model that stayed, the user's own service, a one-off
    container and another project's model are left alone."""
    house = build_house({"stays": {}, "goes": {}})
    for model_id in ("stays", "goes"):
        house.ask(model_id, "hello").raise_for_status()
    (stays,), (goes,) = house.containers("stays"), house.containers("goes")
    ours = f"com.docker.compose.project={house.project}"
    others = [
        run_beside(house, "service", ours),
        run_beside(house, "one-off", ours, "orchestrar.model=goes", "com.docker.compose.oneoff=True"),
        run_beside(house, "elsewhere", "com.docker.compose.project=elsewhere", "orchestrar.model=goes"),
    ]
    try:
        house.terminate()
        house.write_models(fake_models(house.folder, {"stays": {}}))
        house.start()
        assert not exists(goes)
        until("the other is adopted", lambda: house.status("stays")["state"] == "ready", 10)
        assert house.containers("stays") == [stays]
        assert all(exists(other) for other in others)
    finally:
        docker("rm", "--force", *others)


def test_it_is_done_when_docker_is_back(build_house: Build, tmp_path: Path) -> None:
    """A controller starts without Docker too, and removes leftover containers once Docker is there."""
    gate = Gate(tmp_path)
    gate.open()
    try:
        house = build_house({"stays": {}, "goes": {}}, DOCKER_HOST=gate.url)
        house.ask("goes", "hello").raise_for_status()
        (goes,) = house.containers("goes")
        house.terminate()
        gate.shut()
        house.write_models(fake_models(house.folder, {"stays": {}}))
        house.start()
        assert exists(goes)
        gate.open()
        until("it is gone", lambda: not exists(goes), 30)
        assert house.ask("stays", "hello").json()["text"] == "hello"
    finally:
        gate.shut()
