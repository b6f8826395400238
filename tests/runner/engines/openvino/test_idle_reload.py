"""When memory is given back: the decision, by a clock that the test moves."""

from __future__ import annotations

import threading

import pytest

from runner.engines.openvino.idle_reload import GROWN_BYTES, REST_S, IdleReloader


class Engine:
    """Idle as long, and as large, as the test says."""

    def __init__(self) -> None:
        self.idle_s: float | None = 0.0
        self.memory_bytes = 100
        self.rests = 0
        self.given_back = threading.Event()
        self.rest = self.made()

    def made(self, rest_s: float = REST_S) -> IdleReloader:
        return IdleReloader(
            idle_s=lambda: self.idle_s,
            memory_bytes=lambda: self.memory_bytes,
            give_back=self.give_back,
            rest_s=rest_s,
        )

    def give_back(self) -> None:
        self.rests += 1
        self.idle_s = 0.0
        self.given_back.set()


@pytest.fixture
def engine() -> Engine:
    engine = Engine()
    engine.rest.loaded()
    return engine


@pytest.mark.parametrize(
    ("idle_s", "grown_bytes", "rests"),
    [
        (REST_S, GROWN_BYTES + 1, 1),
        (REST_S - 1, GROWN_BYTES + 1, 0),
        (REST_S, GROWN_BYTES, 0),
        (None, 10 * GROWN_BYTES, 0),
    ],
    ids=["idle and grown", "not for long", "not grown", "busy"],
)
def test_it_is_given_back_by_who_is_idle_and_has_grown(
    engine: Engine, idle_s: float | None, grown_bytes: int, rests: int
) -> None:
    """Only an engine that nobody has used for long, and that has grown since it was loaded, gives back."""
    engine.idle_s = idle_s
    engine.memory_bytes += grown_bytes
    engine.rest.look()
    assert rests == engine.rests


def test_each_load_counts_anew(engine: Engine) -> None:
    """What a load could not give back is not tried for again and again."""
    engine.memory_bytes += 2 * GROWN_BYTES
    engine.idle_s = REST_S
    engine.rest.look()
    engine.rest.loaded()
    engine.idle_s = REST_S
    engine.rest.look()
    assert 1 == engine.rests


@pytest.mark.parametrize(("idle_s", "next_s"), [(None, REST_S), (0.0, REST_S), (REST_S - 7, 7), (3 * REST_S, REST_S)])
def test_it_looks_seldom(engine: Engine, idle_s: float | None, next_s: float) -> None:
    """The next look is when it may be time at the earliest; an idle engine that has not grown is not asked often."""
    engine.idle_s = idle_s
    assert next_s == engine.rest.look()


def test_its_thread_looks_by_itself() -> None:
    """Started, it gives back without anybody's call."""
    engine = Engine()
    rest = engine.made(rest_s=0.01)
    rest.loaded()
    engine.memory_bytes += 2 * GROWN_BYTES
    engine.idle_s = 1.0
    rest.start()
    assert engine.given_back.wait(20)
    rest.close()
