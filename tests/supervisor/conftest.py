"""The house and the threads of every supervisor test."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.supervisor.house import House


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(64) as threads:
        yield threads


@pytest.fixture
def house(pool: ThreadPoolExecutor) -> Iterator[House]:
    built = House(pool)
    yield built
    built.backend.up_gate.set()
    built.backend.stop_gate.set()
    built.supervisor.close()
