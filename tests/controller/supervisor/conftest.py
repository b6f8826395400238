"""The house and the threads of every supervisor test."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from controller.supervisor import slot
from controller.supervisor.states import IllegalEvent
from tests.controller.supervisor.house import House


@pytest.fixture(autouse=True)
def no_illegal_event(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fail a test in which the supervisor told a record of an event that its state does not allow."""
    events: list[str] = []

    class NotedEvent(IllegalEvent):
        def __init__(self, message: str) -> None:
            super().__init__(message)
            events.append(message)

    monkeypatch.setattr(slot, "IllegalEvent", NotedEvent)
    yield
    assert events == []


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(64) as threads:
        yield threads


@pytest.fixture
def house(pool: ThreadPoolExecutor) -> Iterator[House]:
    with _built(House(pool)) as built:
        yield built


@pytest.fixture
def patient_house(pool: ThreadPoolExecutor) -> Iterator[House]:
    """One for tests that hold a start up: the clock runs as fast as the start's thread looks, and nothing stalls."""
    with _built(House(pool, start_timeout_s=1e12)) as built:
        yield built


@contextmanager
def _built(house: House) -> Iterator[House]:
    yield house
    house.backend.up_gate.set()
    house.backend.stop_gate.set()
    house.supervisor.close()
