"""The house and the threads of every supervisor test."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from tests.controller.supervisor.house import House


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
