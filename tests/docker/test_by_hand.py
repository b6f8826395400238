"""The Compose file also belongs to the user: starts and stops by hand, overrides, a controller that comes and goes."""

from __future__ import annotations

import json
import signal
import time

import pytest

from tests.docker.conftest import Build
from tests.docker.house import FAKE_IMAGE, House, docker, until


@pytest.fixture(scope="module")
def house(build_house: Build) -> House:
    return build_house({"echo": {}, "second": {}})


def memory_limit(container_id: str) -> int:
    return int(docker("inspect", "--format", "{{.HostConfig.Memory}}", container_id))


def test_an_override_counts_for_the_user_and_for_us(house: House) -> None:
    """A memory value in compose.override.yaml is in force after a start by hand and after one by the controller."""
    override = {"services": {"echo": {"mem_limit": "200m", "memswap_limit": "200m"}}}
    (house.compose_dir / "compose.override.yaml").write_text(json.dumps(override))
    house.compose("up", "-d", "echo")
    (by_hand,) = house.containers("echo")
    assert memory_limit(by_hand) == 200 * 1024**2

    with house.counted_events("create") as created:
        assert house.ask("echo", "hello").json()["text"] == "hello"
    assert created == []
    assert house.containers("echo") == [by_hand]
    row = house.status("echo")
    assert row["container"]["id"] == by_hand[:12]
    assert row["drift"] is False

    house.post("/stop", {"model_id": "echo"}).raise_for_status()
    docker("rm", by_hand)
    house.ask("echo", "hello").raise_for_status()
    (by_us,) = house.containers("echo")
    assert memory_limit(by_us) == 200 * 1024**2


def test_drift_is_shown_and_cured_at_the_next_start(house: House) -> None:
    """A container that the files no longer describe keeps serving, shown as drifted, until its next start."""
    house.ask("echo", "hello").raise_for_status()
    (before,) = house.containers("echo")
    override = {"services": {"echo": {"mem_limit": "220m", "memswap_limit": "220m"}}}
    (house.compose_dir / "compose.override.yaml").write_text(json.dumps(override))
    until("drift is seen", lambda: house.status("echo")["drift"], 20)
    assert house.containers("echo") == [before]
    house.post("/stop", {"model_id": "echo"}).raise_for_status()
    house.ask("echo", "hello").raise_for_status()
    (after,) = house.containers("echo")
    assert memory_limit(after) == 220 * 1024**2


def test_a_stop_by_hand_costs_nothing(house: House) -> None:
    """After `docker compose stop` by hand the next request starts the model again."""
    house.ask("echo", "hello").raise_for_status()
    house.compose("stop", "echo")
    assert house.ask("echo", "again").json()["text"] == "again"


def test_a_removal_by_hand_is_noticed(house: House) -> None:
    """After `docker compose rm` by hand the state is `stopped` within 15 s, without any request."""
    house.ask("echo", "hello").raise_for_status()
    house.compose("rm", "--stop", "--force", "echo")
    until("the state follows", lambda: house.status("echo")["state"] == "stopped", 15)


def test_a_killed_controller_kills_no_model(house: House) -> None:
    """After SIGKILL of the controller its models keep running, and the next controller adopts them."""
    house.ask("echo", "hello").raise_for_status()
    (before,) = house.containers("echo")
    house.kill()
    assert house.containers("echo") == [before]
    house.start()
    until("it is adopted", lambda: house.status("echo")["state"] == "ready", 10)
    with house.counted_events("start") as starts:
        assert house.ask("echo", "still there?").json()["text"] == "still there?"
    assert starts == []
    assert house.containers("echo") == [before]


def test_a_killed_master_ends_its_worker_too(house: House) -> None:
    """SIGKILL of the pid that users know frees the port at once, even with a request in flight."""
    stream = house.ask("echo", {"tokens": 200, "delay_s": 0.1}, stream=True)
    next(stream.iter_lines())
    house.kill_master()
    house.start()
    stream.close()
    until("it is adopted", lambda: house.status("echo")["state"] == "ready", 10)


def test_a_hangup_reads_models_yaml_again(house: House) -> None:
    """SIGHUP neither ends the controller nor starts a second one, and requests in flight complete."""
    with house.ask("echo", {"tokens": 10, "delay_s": 0.1}, stream=True) as stream:
        lines = stream.iter_lines()
        next(lines)
        house.signal(signal.SIGHUP)
        until("it is read", lambda: "models.yaml was reloaded" in house.log_file.read_text(), 10)
        assert any(b'"done"' in line for line in lines)
    assert house.ask("echo", "still here").json()["text"] == "still here"


def test_sigterm_leaves_the_models(house: House) -> None:
    """After SIGTERM the controller ends at once with code 0, and its models stay up."""
    house.ask("echo", "hello").raise_for_status()
    started_at = time.monotonic()
    assert house.terminate() == 0
    assert time.monotonic() - started_at < 5
    assert len(house.containers("echo")) == 1
    house.start()


def test_a_shutdown_cuts_no_stream_in_silence(house: House) -> None:
    """A stream longer than the grace of a shutdown ends with an error event; a shorter one ends as usual."""
    endless = house.ask("echo", {"tokens": 500, "delay_s": 0.1}, stream=True)
    short = house.ask("echo", {"tokens": 10, "delay_s": 0.1}, stream=True)
    assert house.terminate() == 0
    last = [json.loads(line[6:]) for line in endless.iter_lines() if line.startswith(b"data: ")][-1]
    assert last["error"]["code"] == "shutting_down"
    assert b'"done": true' in short.content
    house.start()


def test_docker_away_degrades(build_house: Build) -> None:
    """Without an engine the controller starts, reports `degraded`, and answers starts with 503 and the reason."""
    house = build_house({"echo": {}}, DOCKER_HOST="unix:///nonexistent/docker.sock")
    body = house.get("/health").json()
    assert body["status"] == "degraded"
    assert "Docker" in body["docker"]["reason"]
    response = house.ask("echo", "hello")
    assert (response.status_code, response.json()["error"]["code"]) == (503, "docker_unavailable")
    assert house.get("/models").ok


def test_a_broken_configuration_ends_the_start(build_house: Build) -> None:
    """A broken models.yaml prints every error with its line and ends with exit code 2."""
    house = build_house({}, start=False)
    house.write_models("models:\n  one:\n    sauce: file:///x\n  Two:\n    source: ftp://x\n")
    assert house.launch().wait(30) == 2
    log = house.log_file.read_text()
    assert "models.yaml:3: models.one.sauce: " in log
    assert "models.yaml:4: " in log
    assert "models.yaml:5: " in log
    assert "Traceback" not in log


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ORCHESTRAR_MAX_IN_FLIGHT", "abc"),
        ("ORCHESTRAR_LOG_LEVEL", "loud"),
        ("ORCHESTRAR_PORT", "x"),
    ],
)
def test_a_broken_environment_ends_the_start(build_house: Build, variable: str, value: str) -> None:
    """A wrong variable is reported by its name, with exit code 2 and without a traceback."""
    house = build_house({"echo": {}}, start=False, **{variable: value})
    assert house.launch().wait(30) == 2
    log = house.log_file.read_text()
    assert f"environment: {variable}: " in log
    assert "Traceback" not in log


def test_a_one_off_container_is_the_users(house: House) -> None:
    """A container of `docker compose run` is neither taken for the model nor touched."""
    house.post("/stop", {"model_id": "second"})
    one_off = house.compose("run", "--rm", "--detach", "second", "sleep", "60")
    assert house.ask("second", "hello").json()["text"] == "hello"
    assert docker("inspect", "--format", "{{.State.Running}}", one_off) == "true"
    docker("rm", "-f", one_off)


def test_a_new_image_is_drift(build_house: Build) -> None:
    """An image rebuilt under its old name shows as drift of the container that still runs the old one."""
    docker("tag", FAKE_IMAGE, "orchestrar-test-drift:latest")
    house = build_house({"echo": {"image": "orchestrar-test-drift:latest"}})
    house.ask("echo", "hello").raise_for_status()
    assert house.status("echo")["drift"] is False
    docker("tag", "orchestrar-base:bookworm", "orchestrar-test-drift:latest")
    until("drift is seen", lambda: house.status("echo")["drift"], 20)
    docker("rmi", "orchestrar-test-drift:latest")
