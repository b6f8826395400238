"""The state machine's Docker notices what it is there to notice."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from controller.registry import DeployedModels, Registry
from tests.controller.supervisor.house import until
from tests.controller.supervisor.parking_docker import ParkingDocker
from tests.controller.supervisor.world import ParkingClock
from tests.fakes import make_spec

NEEDS = {"one": 1, "two": 1, "large": 2}


@pytest.fixture
def docker() -> Iterator[ParkingDocker]:
    registry = DeployedModels(Registry(models={model_id: make_spec(model_id) for model_id in NEEDS}))
    parking_docker = ParkingDocker(registry, NEEDS, 2, ParkingClock())
    yield parking_docker
    for call in list(parking_docker.under_way):
        parking_docker.answer(call, succeeds=False)


def test_two_starts_of_one_model_are_noticed(docker: ParkingDocker) -> None:
    """A second start while the first is under way is wrong, and so is one beside its running container."""
    with ThreadPoolExecutor() as pool:
        for count in (1, 2):
            pool.submit(docker.up, "one")
            until(lambda count=count: len(docker.under_way) == count)  # type: ignore[misc]
        assert ["up one came beside ['up one']"] == docker.wrong
        # One after the other: both would find that nothing runs yet.
        for call in list(docker.under_way):
            docker.answer(call, succeeds=True)
            until(lambda: docker.running("one") is not None)
        pool.submit(docker.up, "one")
        until(lambda: len(docker.under_way) == 1)
        assert "up one came beside ['one-1']" == docker.wrong[-1]
        docker.answer(docker.under_way[0], succeeds=True)
    assert 1 == len([container for container in docker.containers.values() if container.running])


def test_a_start_beyond_the_budget_is_noticed(docker: ParkingDocker) -> None:
    """What we started counts against the budget whatever others started, and theirs where the supervisor knows."""
    theirs = docker.create("one", by_hand=True)
    docker.ours.add(docker.create("two").id)
    with ThreadPoolExecutor() as pool:
        pool.submit(docker.up, "large")
        until(lambda: len(docker.under_way) == 1)
        assert ["up large came with ['large', 'two'], which take 3 together"] == docker.wrong
        docker.answer(docker.under_way[0], succeeds=False)
        docker.end("two-3", exit_code=0)
        docker.wrong.clear()
        docker.counted_ids = {theirs.id}
        pool.submit(docker.up, "large")
        until(lambda: len(docker.under_way) == 1)
        assert ["up large came with ['large', 'one'], which take 3 together"] == docker.wrong
        docker.answer(docker.under_way[0], succeeds=False)
