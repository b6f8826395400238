"""A start's stall timer: each sign of progress restarts it."""

from __future__ import annotations

import pytest

from controller.docker.container import Container
from controller.supervisor.starts.stall_timer import GROWTH_BYTES, StallTimer
from tests.fakes import make_container


class Log:
    """A container's log that grows when a test says so, and counts the looks."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.looks = 0

    def __call__(self, container: Container) -> list[str]:
        self.looks += 1
        return list(self.lines)


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def signs(log: Log) -> StallTimer:
    """Time a start of 20 s that began at 0."""
    return StallTimer(make_container(), log, 20.0, 0.0)


def test_silence_ends_it(signs: StallTimer) -> None:
    assert not signs.are_missing(19.9)
    assert signs.are_missing(20.0)


def test_a_new_phase_extends_it(signs: StallTimer) -> None:
    """Each change counts, the same phase again does not."""
    signs.phase("loading", 15)
    signs.phase("loading", 30)
    assert not signs.are_missing(34.9)
    assert signs.are_missing(35)


def test_log_lines_extend_it(signs: StallTimer, log: Log) -> None:
    """A server that shows progress only in its log goes on for as long as it writes new lines."""
    for now in range(5, 200, 5):
        log.lines = [f"layer {now}"]
        signs.log(now)
        assert not signs.are_missing(now + 19)
    signs.log(300)
    assert signs.are_missing(300)


def test_the_log_is_read_rarely(signs: StallTimer, log: Log) -> None:
    """Four times within the allowed time, since each look is a Docker call."""
    for tenths in range(200):
        signs.log(tenths / 10)
    assert log.looks <= 4


def test_memory_that_grows_extends_it(signs: StallTimer) -> None:
    """Weights being read are progress; the same memory used again is none."""
    signs.memory(GROWTH_BYTES, 10)
    signs.memory(GROWTH_BYTES + 1000, 29)
    signs.memory(None, 29)
    assert signs.are_missing(30)
    signs.memory(2 * GROWTH_BYTES, 29)
    assert not signs.are_missing(48)
    assert signs.peak_bytes == 2 * GROWTH_BYTES
