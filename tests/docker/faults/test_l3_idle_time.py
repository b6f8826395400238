"""L3: idle time counts from the last release."""

from __future__ import annotations

import time

import pytest

from tests.conftest import Figure
from tests.docker.conftest import Build
from tests.docker.faults.streams import Reader
from tests.docker.house import House, until
from tests.promises.mutation import Mutation

IDLE_S = 2.0
MUTATION = Mutation(
    "controller/supervisor/slot.py",
    "if self.state is not State.READY or self.leases or self.queue",
    "if self.state is not State.READY or self.queue",
    "test_l3_a_long_stream_is_not_cut",
)


@pytest.fixture(scope="module")
def house(build_house: Build) -> House:
    return build_house({"echo": {"idle_timeout": f"{IDLE_S:g}s"}})


def idle_stop_after(house: House, released_at: float) -> float:
    """Wait until the model's container has ended, and return the seconds since the release."""
    until("the idle model has ended", lambda: house.containers("echo") == [], IDLE_S + 10)
    return time.monotonic() - released_at


def test_l3_a_long_stream_is_not_cut(house: House, figure: Figure) -> None:
    """A stream of three times the idle timeout arrives complete, and the full timeout follows its end."""
    # The monitor now waits for this request's idle deadline, and so looks in the middle of the stream.
    house.ask("echo", "short").raise_for_status()
    started_at = time.monotonic()
    stream = Reader(house.ask("echo", {"tokens": 12, "delay_s": 3 * IDLE_S / 12}, stream=True))
    *words, last = stream.read()
    assert [f"word{number} " for number in range(12)] == [word and word.get("text") for word in words]
    assert last is not None
    assert last["done"] is True
    assert stream.ended_at - started_at > 3 * IDLE_S
    stopped_after_s = idle_stop_after(house, stream.ended_at)
    figure("stream", f"{stream.ended_at - started_at:.1f} s")
    figure("idle timeout", f"{IDLE_S:g} s")
    figure("stopped after its end", f"{stopped_after_s:.1f} s")
    assert IDLE_S <= stopped_after_s + 0.2


def test_l3_the_last_of_many_counts(house: House) -> None:
    """A short request beside a long one does not begin the idle time."""
    stream = Reader(house.ask("echo", {"tokens": 6, "delay_s": 3 * IDLE_S / 6}, stream=True))
    house.ask("echo", "short").raise_for_status()
    *_, last = stream.read()
    assert last is not None
    assert last["done"] is True
    assert IDLE_S <= idle_stop_after(house, stream.ended_at) + 0.2
