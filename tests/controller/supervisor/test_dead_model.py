"""After a connection that broke: nobody is sent to the same corpse again."""

from __future__ import annotations

import pytest

from controller.errors import DeadlineExceeded
from controller.supervisor import DeadModelCheck, State
from controller.supervisor.backend import Readiness
from controller.supervisor.watching.dead_model import BELIEVED_AFTER_S
from tests.controller.supervisor.house import House, lease


@pytest.fixture
def check(house: House) -> DeadModelCheck:
    return DeadModelCheck(
        house.supervisor, house.backend, lambda port, path: Readiness(ready=house.backend.ready), clock=house.clock
    )


def test_a_docker_that_lags_behind_is_waited_for(house: House, check: DeadModelCheck) -> None:
    """While Docker says "running" of a process that is gone, nobody is sent there; then the model starts anew."""
    held = lease(house)
    house.backend.ready = False
    inspect, looks = house.backend.inspect, iter(range(5))

    def late(container_id: str) -> object:
        if next(looks) == 4:
            house.backend.end(container_id, exit_code=137)
        return inspect(container_id)

    house.backend.inspect = late  # type: ignore[assignment, method-assign]
    check.wait_for_verdict(held)
    held.release()
    assert house.state() is State.STOPPED
    house.backend.inspect, house.backend.ready = inspect, True  # type: ignore[method-assign]
    assert lease(house).container_id == "tiny-2"


def test_a_model_that_answers_is_asked_again(house: House, check: DeadModelCheck) -> None:
    """A connection may break though its model lives."""
    held = lease(house)
    check.wait_for_verdict(held)
    assert house.state() is State.READY


def test_docker_is_believed_in_the_end(house: House, check: DeadModelCheck) -> None:
    """A container that runs and is not ready holds its requests up for a bounded time."""
    held = lease(house)
    house.backend.ready = False
    before = house.clock.monotonic()
    check.wait_for_verdict(held)
    assert BELIEVED_AFTER_S <= house.clock.monotonic() - before < BELIEVED_AFTER_S + 1


def test_nobody_finds_out_for_longer_than_they_wait(house: House) -> None:
    """A request that has little time left ends with it, and ends no model on so short a look."""
    check = DeadModelCheck(
        house.supervisor, house.backend, lambda port, path: Readiness(ready=False, is_broken=True), clock=house.clock
    )
    lease(house).release()
    held = house.supervisor.acquire("tiny", max_wait_s=2)
    before = house.clock.monotonic()
    with pytest.raises(DeadlineExceeded):
        check.wait_for_verdict(held)
    assert house.clock.monotonic() - before < 3
    container = house.backend.inspect(held.container_id)
    assert container is not None
    assert (house.state(), container.status) == (State.READY, "running")


def test_nobody_waits_for_longer_while_another_finds_out(house: House, check: DeadModelCheck) -> None:
    """Who has no time left for that is told so at once, and nothing of Docker."""
    lease(house).release()
    held = house.supervisor.acquire("tiny", max_wait_s=0)
    house.backend.end("tiny-1", exit_code=137)
    with check._one_at_a_time(lease(house)), pytest.raises(DeadlineExceeded):
        check.wait_for_verdict(held)


def test_a_server_that_listens_no_more_is_started_anew(house: House) -> None:
    """Its container runs and would for ever: it is ended, as a failure of the model, and the next request starts it."""
    check = DeadModelCheck(
        house.supervisor, house.backend, lambda port, path: Readiness(ready=False, is_broken=True), clock=house.clock
    )
    held = lease(house)
    check.wait_for_verdict(held)
    held.release()
    error = house.supervisor.view("tiny").error
    assert error is not None
    assert "did not listen on its port any more" in error.message
    assert lease(house).container_id == "tiny-2"


def test_one_finds_out_for_all(house: House, check: DeadModelCheck) -> None:
    """Whoever comes after the verdict asks Docker nothing."""
    first, second = lease(house), lease(house)
    house.backend.end("tiny-1", exit_code=137)
    check.wait_for_verdict(first)
    house.backend.inspect = lambda container_id: pytest.fail("asked again")  # type: ignore[method-assign]
    check.wait_for_verdict(second)
