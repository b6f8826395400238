"""F10: the wall clock does not matter."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Figure
from tests.docker.conftest import Build
from tests.docker.faults.streams import Reader
from tests.docker.house import House, until
from tests.promises.mutation import Mutation

DAY_S = 24 * 3600
IDLE_S = 2.0
MUTATION = Mutation(
    "controller/supervisor/clock.py",
    "monotonic = staticmethod(time.monotonic)",
    "monotonic = staticmethod(time.time)",
    "test_f10_a_wall_clock_that_jumps_changes_nothing",
)


def with_a_clock(
    build_house: Build, folder: Path, models: dict[str, dict[str, Any]], **environ: str
) -> tuple[House, Path]:
    """Start a controller whose wall clock, also in gunicorn's master, is wrong by the seconds in a file."""
    offset = folder / "offset"
    set_wrong_by(offset, 0)
    house = build_house(models, start=False, ORCHESTRAR_TEST_CLOCK=str(offset), **environ)
    house.start(config=Path(__file__).with_name("clock_conf.py"))
    return house, offset


def set_wrong_by(offset: Path, seconds: int) -> None:
    """Replace the file in one step, since every question for the time reads it."""
    fresh = offset.with_name("fresh")
    fresh.write_text(str(seconds))
    fresh.replace(offset)


@pytest.mark.parametrize("jump_s", [DAY_S, -DAY_S], ids=["a day ahead", "a day back"])
def test_f10_a_wall_clock_that_jumps_changes_nothing(
    build_house: Build, tmp_path: Path, jump_s: int, figure: Figure
) -> None:
    """A jump of a day in a start and in a stream changes nothing: both end as usual, and the idle stop is on time."""
    models = {"echo": {"env": {"FAKE_START_S": "1.5"}, "idle_timeout": f"{IDLE_S:g}s"}}
    house, offset = with_a_clock(build_house, tmp_path, models)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(house.ask, "echo", "hello")
        until("it starts", lambda: house.status("echo")["state"] == "starting", 10)
        set_wrong_by(offset, jump_s)
        response = answer.result(30)
    assert "hello" == response.json()["text"]
    assert 0 < response.json()["timings"]["start_s"] < 20
    stream = Reader(house.ask("echo", {"tokens": 6, "delay_s": 0.5}, stream=True))
    assert stream.has_begun.wait(10)
    set_wrong_by(offset, 0)
    last = stream.read()[-1]
    assert last is not None
    assert last["done"] is True
    set_wrong_by(offset, jump_s)
    until("the idle model has ended", lambda: house.containers("echo") == [], IDLE_S + 10)
    stopped_after_s = time.monotonic() - stream.ended_at
    figure(f"idle stop at {jump_s / DAY_S:+g} day after", f"{stopped_after_s:.1f} s of {IDLE_S:g} s")
    assert IDLE_S <= stopped_after_s + 0.2


@pytest.mark.parametrize("jump_s", [DAY_S, -DAY_S], ids=["a day ahead", "a day back"])
def test_f10_a_jump_cuts_no_grace(build_house: Build, tmp_path: Path, jump_s: int, figure: Figure) -> None:
    """A jump of a day while the controller ends does not cut the grace: a stream in flight completes."""
    house, offset = with_a_clock(build_house, tmp_path, {"echo": {}}, ORCHESTRAR_STOP_GRACE_S="15")
    stream = Reader(house.ask("echo", {"tokens": 8, "delay_s": 0.5}, stream=True))
    assert stream.has_begun.wait(30)
    process = house.begin_to_end()
    until("new connections are refused", house.refuses, 2)
    set_wrong_by(offset, jump_s)
    last = stream.read()[-1]
    assert last is not None
    assert last["done"] is True
    assert process.wait(15) == 0
    figure(f"a stream ended whole in a shutdown with {jump_s / DAY_S:+g} day", "yes")
