"""L8: a slow start continues for as long as it shows progress."""

from __future__ import annotations

import time

import pytest

from tests.conftest import Figure
from tests.docker.conftest import Build
from tests.errorshape import check_error
from tests.promises.mutation import Mutation

TIMEOUT_S = 3
MUTATION = Mutation(
    "controller/supervisor/starts/stall_timer.py",
    "self._log, self._progress_at = log, now",
    "self._log = log",
    "test_l8_progress_extends_the_start",
)


@pytest.mark.parametrize("sign", ["FAKE_LOG_EVERY_S", "FAKE_PHASE_EVERY_S"])
def test_l8_progress_extends_the_start(build_house: Build, figure: Figure, sign: str) -> None:
    """A start of three times `start_timeout` that writes log lines, or reports phases, succeeds."""
    house = build_house(
        {"slow": {"start_timeout": f"{TIMEOUT_S}s", "env": {"FAKE_START_S": f"{3 * TIMEOUT_S}", sign: "0.5"}}}
    )
    started_at = time.monotonic()
    assert "at last" == house.ask("slow", "at last").json()["text"]
    figure(
        f"ready with {sign.split('_')[1].lower()} lines",
        f"after {time.monotonic() - started_at:.1f} s of {TIMEOUT_S} s",
    )


def test_l8_silence_ends_the_start(build_house: Build, figure: Figure) -> None:
    """A start without any progress is stopped after `start_timeout`, with a card that says so."""
    house = build_house({"silent": {"start_timeout": f"{TIMEOUT_S}s", "env": {"FAKE_START_S": "60"}}})
    started_at = time.monotonic()
    refusal = house.ask("silent", "hello")
    took_s = time.monotonic() - started_at
    error = check_error(refusal.status_code, refusal.json(), 503, "start_failed")
    figure("silent start ended", f"after {took_s:.1f} s")
    assert "made no progress for 3 s" in error["message"]
    assert "raise its start_timeout above 3s" in error["details"]["fix"]
    assert TIMEOUT_S <= took_s < 3 * TIMEOUT_S
    assert [] == house.containers("silent")
