"""A stopped model's container is started again without Compose, unless anything that it was made of has changed."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.docker.conftest import Build
from tests.docker.house import FAKE_IMAGE, House, docker, docker_with_a_log

IMAGE = "orchestrar-test-resumption:latest"


@pytest.fixture
def house(build_house: Build, tmp_path: Path) -> Iterator[House]:
    """Yield a model that was started and stopped once; every docker command of the controller is logged."""
    docker("tag", FAKE_IMAGE, IMAGE)
    house = build_house({"echo": {"image": IMAGE}}, PATH=docker_with_a_log(tmp_path))
    house.ask("echo", "hello").raise_for_status()
    house.post("/stop", {"model_id": "echo"}).raise_for_status()
    yield house
    house.close()
    docker("rmi", IMAGE)


@pytest.fixture
def ups(tmp_path: Path) -> Callable[[], int]:
    """Return a function that counts the controller's calls of `docker compose up`."""
    return lambda: sum(" up " in line for line in (tmp_path / "calls").read_text().splitlines())


def only_container(house: House) -> str:
    (container,) = house.containers("echo")
    return container


def test_a_stopped_model_starts_without_compose(house: House, ups: Callable[[], int]) -> None:
    """The stopped container is started unchanged, and the phases of that start are shown."""
    with house.counted_events("create") as created:
        assert house.ask("echo", "again").json()["text"] == "again"
    assert (created, ups()) == ([], 1)
    row = house.status("echo")
    assert set(row["start_phases"]) == {"docker_s", "process_s", "load_s"}
    assert 0 < row["start_phases"]["docker_s"] < row["start_s"]
    assert f"echo: ready on port {row['port']} after" in house.log_file.read_text()
    assert f"(docker {row['start_phases']['docker_s']}, process " in house.log_file.read_text()


def test_an_override_that_appears_counts(house: House) -> None:
    """An override written while the model was stopped is in force at its next start."""
    override = {"services": {"echo": {"mem_limit": "220m", "memswap_limit": "220m"}}}
    (house.compose_dir / "compose.override.yaml").write_text(json.dumps(override))
    house.ask("echo", "again").raise_for_status()
    assert docker("inspect", "--format", "{{.HostConfig.Memory}}", only_container(house)) == str(220 * 1024**2)


def test_a_file_that_an_override_names_counts(house: House) -> None:
    """A file that an override refers to is never assumed to be unchanged."""
    (house.compose_dir / "compose.override.yaml").write_text('{"services": {"echo": {"env_file": "more.env"}}}')
    for value in ("first", "second"):
        (house.compose_dir / "more.env").write_text(f"MORE={value}\n")
        house.ask("echo", "again").raise_for_status()
        assert f"MORE={value}" in docker("inspect", "--format", "{{.Config.Env}}", only_container(house))
        house.post("/stop", {"model_id": "echo"}).raise_for_status()


def test_a_new_image_counts(house: House) -> None:
    """If an image is rebuilt under its old name while the model is stopped, the next start runs the new one."""
    container = docker("create", FAKE_IMAGE)
    rebuilt = docker("commit", container)
    docker("rm", container)
    docker("tag", rebuilt, IMAGE)
    house.ask("echo", "again").raise_for_status()
    assert docker("inspect", "--format", "{{.Image}}", only_container(house)) == rebuilt


def test_a_port_that_was_taken_is_replaced(house: House) -> None:
    """If another program took the port while the model was stopped, the model starts on another port."""
    before = house.get("/models").json()["models"][0]["port"]
    with socket.create_server(("127.0.0.1", before)):
        answer = house.post("/run", {"model_id": "echo"}).json()
    assert answer["state"] == "ready"
    assert answer["port"] != before


def test_a_network_that_was_removed_comes_back(house: House) -> None:
    """After `docker network prune` while nothing runs, the next request makes a new network and container."""
    docker("network", "rm", f"{house.project}_models")
    assert house.ask("echo", "again").json()["text"] == "again"


def test_a_container_that_was_removed_is_made(house: House) -> None:
    """After `docker compose down` by hand the next request makes everything again."""
    house.compose("--profile", "models", "down")
    assert house.ask("echo", "again").json()["text"] == "again"


def test_one_that_was_started_by_hand_is_adopted(house: House, ups: Callable[[], int]) -> None:
    """A stopped container that the user started is adopted as it runs."""
    house.compose("start", "echo")
    with house.counted_events("start") as starts:
        assert house.ask("echo", "again").json()["text"] == "again"
    assert (starts, ups()) == ([], 1)
