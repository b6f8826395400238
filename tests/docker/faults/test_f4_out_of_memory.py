"""F4: out of memory is reported only if Docker saw it."""

from __future__ import annotations

import os
import signal
from typing import Any

from tests.conftest import Figure
from tests.docker.conftest import Build
from tests.docker.house import House, docker, until
from tests.errorshape import check_error
from tests.promises.mutation import Mutation

LIMIT = 128 * 1024 * 1024
MUTATION = Mutation(
    "controller/supervisor/failures/cause.py",
    "if not container.oom_killed:",
    "if container.exit_code != 137:",
    "test_f4_a_kill_is_not_called_out_of_memory",
)


def error_of(house: House, model_id: str) -> dict[str, Any] | None:
    error: dict[str, Any] | None = next(
        row["error"] for row in house.get("/models").json()["models"] if row["id"] == model_id
    )
    return error


def test_f4_a_start_that_runs_out_says_so(build_house: Build, figure: Figure) -> None:
    """The failure card has Docker's evidence, the limit, the observed peak, and the setting to raise."""
    house = build_house({"hungry": {"env": {"FAKE_EAT_MB": "300", "FAKE_EAT_S": "6", "FAKE_START_S": "20"}}})
    refusal = house.ask("hungry", "hello")
    error = check_error(refusal.status_code, refusal.json(), 503, "start_failed")
    assert "ran out of memory while starting, at its limit of 128m" in error["message"]
    assert "raise its resources.memory above 128m" in error["details"]["fix"]
    assert (True, LIMIT) == (error["details"]["oom_killed"], error["details"]["memory_limit_bytes"])
    peak = error["details"]["memory_peak_bytes"]
    assert LIMIT / 4 <= peak <= LIMIT
    assert f"the largest sample of its use was {peak // 1024**2}m" in error["details"]["fix"]
    figure("limit", "128m")
    figure("largest sample of a start that grew to it", f"{peak // 1024**2}m")


def test_f4_a_server_that_runs_out_says_so(build_house: Build, figure: Figure) -> None:
    """A request that takes all memory ends its model twice and gets 502; the model's error has the limit and the
    observed peak."""
    house = build_house({"hungry": {}})
    assert house.ask("hungry", "hello").ok
    until("its memory is measured", lambda: house.status("hungry")["memory_bytes"], 30)
    used_bytes = house.status("hungry")["memory_bytes"]
    refusal = house.ask("hungry", {"eat_mb": 300})
    check_error(refusal.status_code, refusal.json(), 502, "model_died")
    error = until("its end is noticed", lambda: error_of(house, "hungry"), 20)
    assert "ran out of memory while serving, at its limit of 128m" in error["message"]
    assert error["details"]["oom_killed"]
    peak = error["details"]["memory_peak_bytes"]
    assert used_bytes <= peak <= LIMIT
    assert f"the largest sample of its use was {peak // 1024**2}m" in error["details"]["fix"]
    figure("largest sample before it", f"{peak // 1024**2}m of 128m")


def test_f4_a_kill_is_not_called_out_of_memory(build_house: Build) -> None:
    """SIGKILL leaves the same exit code. Through Docker it counts as a stop from outside, otherwise as the model's own
    end, and is reported as such, while the model starts and while it serves."""
    house = build_house({"echo": {"env": {"FAKE_START_S": "3", "FAKE_LOG_EVERY_S": "1"}}})
    house.post("/run", {"model_id": "echo", "wait": False})
    (container,) = until("it starts", lambda: house.containers("echo"), 20)
    docker("kill", container)
    error = until("its end is noticed", lambda: error_of(house, "echo"), 20)
    assert "was stopped from outside while it started" in error["message"]
    for doing in ("starting", "serving"):
        if doing == "serving":
            until("it serves again", lambda: house.ask("echo", "hello").ok, 20)
        else:
            house.post("/run", {"model_id": "echo", "wait": False})
        (container,) = until("it runs", lambda: house.containers("echo"), 20)
        os.kill(int(docker("inspect", "--format", "{{.State.Pid}}", container)), signal.SIGKILL)
        error = until("its end is noticed", lambda: error_of(house, "echo"), 20)
        assert f"ended while {doing} (exit code 137)" in error["message"]
        assert "memory" not in error["message"]
        assert not error["details"]["oom_killed"]
