"""After a connection that broke: no request goes to the same dead container again."""

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
    """While Docker calls a dead process "running", no request goes there; then the model starts again."""
    open_lease = lease(house)
    house.backend.ready = False
    inspect, looks = house.backend.inspect, iter(range(5))

    def late(container_id: str) -> object:
        if next(looks) == 4:
            house.backend.end(container_id, exit_code=137)
        return inspect(container_id)

    house.backend.inspect = late  # type: ignore[assignment, method-assign]
    check.wait_for_verdict(open_lease)
    open_lease.release()
    assert house.state() is State.STOPPED
    house.backend.inspect, house.backend.ready = inspect, True  # type: ignore[method-assign]
    assert lease(house).container_id == "tiny-2"


def test_a_model_that_answers_is_asked_again(house: House, check: DeadModelCheck) -> None:
    """A connection may break although its model lives."""
    open_lease = lease(house)
    check.wait_for_verdict(open_lease)
    assert house.state() is State.READY


def test_docker_is_believed_in_the_end(house: House, check: DeadModelCheck) -> None:
    """A container that runs and is not ready delays its requests for a bounded time."""
    open_lease = lease(house)
    house.backend.ready = False
    before = house.clock.monotonic()
    check.wait_for_verdict(open_lease)
    assert BELIEVED_AFTER_S <= house.clock.monotonic() - before < BELIEVED_AFTER_S + 1


def test_no_request_looks_for_longer_than_it_may_wait(house: House) -> None:
    """A request with little time left ends when that is over, and stops no model after so short a look."""
    check = DeadModelCheck(
        house.supervisor, house.backend, lambda port, path: Readiness(ready=False, is_broken=True), clock=house.clock
    )
    lease(house).release()
    open_lease = house.supervisor.acquire("tiny", max_wait_s=2)
    before = house.clock.monotonic()
    with pytest.raises(DeadlineExceeded):
        check.wait_for_verdict(open_lease)
    assert house.clock.monotonic() - before < 3
    container = house.backend.inspect(open_lease.container_id)
    assert container is not None
    assert (house.state(), container.status) == (State.READY, "running")


def test_no_request_waits_for_longer_while_another_looks(house: House, check: DeadModelCheck) -> None:
    """A request without time left for that hears so at once, and not that Docker failed."""
    lease(house).release()
    open_lease = house.supervisor.acquire("tiny", max_wait_s=0)
    house.backend.end("tiny-1", exit_code=137)
    with check._one_at_a_time(lease(house)), pytest.raises(DeadlineExceeded):
        check.wait_for_verdict(open_lease)


def test_a_server_that_does_not_listen_is_restarted(house: House) -> None:
    """Its container would run for ever: it is stopped, as a failure of the model, and the next request starts it."""
    check = DeadModelCheck(
        house.supervisor, house.backend, lambda port, path: Readiness(ready=False, is_broken=True), clock=house.clock
    )
    open_lease = lease(house)
    check.wait_for_verdict(open_lease)
    open_lease.release()
    error = house.supervisor.view("tiny").error
    assert error is not None
    assert "did not listen on its port any more" in error.message
    assert lease(house).container_id == "tiny-2"


def test_one_finds_out_for_all(house: House, check: DeadModelCheck) -> None:
    """A request that comes after the verdict does not ask Docker."""
    first, second = lease(house), lease(house)
    house.backend.end("tiny-1", exit_code=137)
    check.wait_for_verdict(first)
    house.backend.inspect = lambda container_id: pytest.fail("asked again")  # type: ignore[method-assign]
    check.wait_for_verdict(second)
