"""When an idle engine is reloaded; the test sets the idle time and the memory."""

from __future__ import annotations

import threading

import pytest

from runner.engines.openvino.idle_reload import GROWN_BYTES, RELOAD_AFTER_S, IdleReloader


class Engine:
    """An engine whose idle time and size the test sets."""

    def __init__(self) -> None:
        self.idle_s: float | None = 0.0
        self.memory_bytes = 100
        self.reloads = 0
        self.reload_seen = threading.Event()
        self.reloader = self.make_reloader()

    def make_reloader(self, reload_after_s: float = RELOAD_AFTER_S) -> IdleReloader:
        return IdleReloader(
            idle_s=lambda: self.idle_s,
            memory_bytes=lambda: self.memory_bytes,
            reload=self.reload,
            reload_after_s=reload_after_s,
        )

    def reload(self) -> None:
        self.reloads += 1
        self.idle_s = 0.0
        self.reload_seen.set()


@pytest.fixture
def engine() -> Engine:
    engine = Engine()
    engine.reloader.note_load()
    return engine


@pytest.mark.parametrize(
    ("idle_s", "grown_bytes", "reloads"),
    [
        (RELOAD_AFTER_S, GROWN_BYTES + 1, 1),
        (RELOAD_AFTER_S - 1, GROWN_BYTES + 1, 0),
        (RELOAD_AFTER_S, GROWN_BYTES, 0),
        (None, 10 * GROWN_BYTES, 0),
    ],
    ids=["idle and grown", "not for long", "not grown", "busy"],
)
def test_only_an_idle_engine_that_has_grown_is_reloaded(
    engine: Engine, idle_s: float | None, grown_bytes: int, reloads: int
) -> None:
    """The engine must have been idle for long, and must have grown since its load."""
    engine.idle_s = idle_s
    engine.memory_bytes += grown_bytes
    engine.reloader.check()
    assert reloads == engine.reloads


def test_growth_counts_from_the_last_load(engine: Engine) -> None:
    """Memory that a reload could not free does not cause further reloads."""
    engine.memory_bytes += 2 * GROWN_BYTES
    engine.idle_s = RELOAD_AFTER_S
    engine.reloader.check()
    engine.reloader.note_load()
    engine.idle_s = RELOAD_AFTER_S
    engine.reloader.check()
    assert 1 == engine.reloads


@pytest.mark.parametrize(
    ("idle_s", "next_s"),
    [(None, RELOAD_AFTER_S), (0.0, RELOAD_AFTER_S), (RELOAD_AFTER_S - 7, 7), (3 * RELOAD_AFTER_S, RELOAD_AFTER_S)],
)
def test_checks_are_rare(engine: Engine, idle_s: float | None, next_s: float) -> None:
    """The next check comes once a reload may be due; an idle engine that has not grown is rarely checked."""
    engine.idle_s = idle_s
    assert next_s == engine.reloader.check()


def test_its_thread_checks_by_itself() -> None:
    """Once started, it reloads the engine without further calls."""
    engine = Engine()
    reloader = engine.make_reloader(reload_after_s=0.01)
    reloader.note_load()
    engine.memory_bytes += 2 * GROWN_BYTES
    engine.idle_s = 1.0
    reloader.start()
    assert engine.reload_seen.wait(20)
    reloader.close()
