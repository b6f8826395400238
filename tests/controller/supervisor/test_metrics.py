"""Prometheus can read what the controller counts, and the counts are right."""

from __future__ import annotations

from dataclasses import replace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from controller.errors import Overloaded, StartFailed
from controller.supervisor.backend import Amount
from tests.controller.supervisor.house import House, lease


def values(house: House) -> dict[tuple[str, ...], float]:
    """Return every sample by its name and the values of its labels, in the order of their names."""
    families = text_string_to_metric_families(house.supervisor.metrics.text().decode())
    return {(s.name, *s.labels.values()): s.value for family in families for s in family.samples}


@pytest.fixture
def house(pool: object) -> House:
    return House(pool, max_queue=0, max_concurrency=1)  # type: ignore[arg-type]


def test_waits_and_starts_are_counted(house: House) -> None:
    lease(house).release()
    open_lease = lease(house)
    samples = values(house)
    assert samples["orchestrar_queue_wait_seconds_count", "tiny"] == 2
    assert samples["orchestrar_start_seconds_count", "tiny"] == 1
    assert samples["orchestrar_model_state", "tiny", "ready"] == 1
    assert samples["orchestrar_model_in_flight", "tiny"] == 1
    assert samples["orchestrar_model_memory_counted_bytes", "tiny"] == 1
    open_lease.release()


def test_refusals_and_failures_are_counted_by_code(house: House) -> None:
    open_lease = lease(house)
    with pytest.raises(Overloaded):
        lease(house)
    open_lease.release()
    house.supervisor.stop("tiny")
    house.backend.up_error = StartFailed("no")
    with pytest.raises(StartFailed):
        lease(house)
    samples = values(house)
    assert samples["orchestrar_refused_requests_total", "overloaded", "tiny"] == 1
    assert samples["orchestrar_failed_starts_total", "start_failed", "tiny"] == 1


def test_deaths_and_evictions_are_counted(house: House) -> None:
    house.backend.budget = Amount(memory_bytes=1)
    lease(house).release()
    house.clock.advance(10)
    house.supervisor.acquire("other").release()
    container = house.backend.find("other")
    assert container is not None
    house.backend.containers[container.id] = replace(container, status="exited", exit_code=1)
    house.supervisor.adopt("other")
    samples = values(house)
    assert samples["orchestrar_evictions_total", "tiny"] == 1
    assert samples["orchestrar_deaths_total", "other"] == 1
