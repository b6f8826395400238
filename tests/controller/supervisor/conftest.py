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
    """Fail a test in which an event reached a record whose state does not allow it."""
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
    with _until_closed(House(pool)) as open_house:
        yield open_house


@pytest.fixture
def patient_house(pool: ThreadPoolExecutor) -> Iterator[House]:
    """Boot a house for tests that delay a start: the clock runs as fast as the start looks, and nothing stalls."""
    with _until_closed(House(pool, start_timeout_s=1e12)) as open_house:
        yield open_house


@contextmanager
def _until_closed(house: House) -> Iterator[House]:
    yield house
    house.backend.up_gate.set()
    house.backend.stop_gate.set()
    house.supervisor.close()
