"""Waiting for a start and for a turn: bounded, in order, and clients may leave at any time."""

from __future__ import annotations

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from controller.errors import (
    Cancelled,
    DeadlineExceeded,
    ModelPreparing,
    Overloaded,
    Unavailable,
)
from controller.supervisor import CancelToken, State
from controller.supervisor.backend import PreparationProgress
from tests.controller.supervisor.house import House, error_of, lease, until
from tests.fakes import HANG_S


class TestWaiting:
    def test_the_wait_is_bounded_and_the_start_goes_on(self, house: House) -> None:
        """A request waits `max_wait` at most; the start it waited for serves the next one."""
        house.backend.up_gate.clear()
        request = house.later(lease, house)
        house.clock.until_waiting(1)
        house.clock.advance(60)
        assert isinstance(error_of(request), DeadlineExceeded)
        house.backend.up_gate.set()
        assert house.state_after_start() is State.READY
        lease(house).release()
        assert house.backend.calls == ["up tiny"]

    def test_a_run_waits_no_longer_than_its_request(self, house: House) -> None:
        """`run` waits for as long as is left of a wait that began with another model."""
        house.backend.up_gate.clear()
        run = house.later(house.supervisor.run, "tiny", wait=True, max_wait_s=5)
        house.clock.until_waiting(1)
        house.clock.advance(5)
        assert isinstance(error_of(run), DeadlineExceeded)
        house.backend.up_gate.set()
        assert house.state_after_start() is State.READY

    def test_a_lease_tells_what_is_left(self, house: House) -> None:
        """The start and the queue have used a part of the time that a request may wait."""
        house.backend.up_gate.clear()
        request = house.later(lease, house)
        house.clock.until_waiting(1)
        house.clock.advance(20)
        house.backend.up_gate.set()
        open_lease = request.result(HANG_S)
        assert open_lease.left_s == 60 - open_lease.start_s - open_lease.queue_s
        assert open_lease.left_s <= 40

    def test_a_leaving_client_aborts_nothing(self, house: House) -> None:
        """A client that leaves stops waiting at once; the start goes on for the others."""
        house.backend.up_gate.clear()
        token = CancelToken()
        leaver = house.later(house.supervisor.acquire, "tiny", token=token)
        other = house.later(lease, house)
        house.clock.until_waiting(2)
        token.cancel()
        assert isinstance(error_of(leaver), Cancelled)
        house.backend.up_gate.set()
        other.result(HANG_S).release()
        assert house.backend.calls == ["up tiny"]

    def test_a_client_that_left_before_does_not_wait(self, house: House) -> None:
        """A token cancelled before the wait begins ends it, although no notification follows."""
        house.backend.up_gate.clear()
        token = CancelToken()
        token.cancel()
        with pytest.raises(Cancelled):
            house.supervisor.acquire("tiny", token=token)

    def test_preparing_is_reported_with_its_percentage(self, house: House) -> None:
        """A request that waits for a download longer than `max_wait` hears how far it is, and when to try again."""
        gate = threading.Event()
        house.backend.prepared_models = set()
        house.supervisor = house.boot()
        assert house.state() is State.ABSENT

        def slow(model_id: str, on_progress: Any, cancelled: Any) -> None:
            on_progress(PreparationProgress(phase="downloading", fraction=0.43))
            assert gate.wait(HANG_S)

        house.backend.on_prepare = slow
        request = house.later(lease, house)
        house.clock.until_waiting(1)
        until(lambda: house.supervisor.view("tiny").progress is not None)
        house.clock.advance(60)
        error = error_of(request)
        assert isinstance(error, ModelPreparing)
        assert error.details == {"percent": 43}
        # 43 % in 60 s: 80 s to go, and no client has to wait for longer than a minute.
        assert error.retry_after_s == 60.0
        gate.set()
        assert house.state_after_start() is State.READY

    def test_a_ready_model_is_not_waited_for(self, house: House) -> None:
        """The wait for a model that is ready is exactly 0, however long it takes to find that out."""
        lease(house).release()
        times = itertools.count(house.clock.monotonic())
        house.clock.monotonic = lambda: float(next(times))  # type: ignore[method-assign]
        assert lease(house).start_s == 0

    def test_closing_frees_the_waiters(self, house: House) -> None:
        """A controller that shuts down answers the requests that wait instead of keeping them."""
        house.backend.up_gate.clear()
        request = house.later(lease, house)
        house.clock.until_waiting(1)
        house.supervisor.close()
        assert isinstance(error_of(request), Unavailable)

    def test_no_request_gets_a_turn_after_closing(self, house: House) -> None:
        """A model that is ready and free is not used any more once the controller shuts down."""
        lease(house).release()
        house.supervisor.close()
        with pytest.raises(Unavailable):
            lease(house)


class TestQueue:
    def test_turns_come_in_order(self, pool: ThreadPoolExecutor) -> None:
        """With `max_concurrency` leases out, callers wait, and each free place goes to the caller that came first."""
        house = House(pool, max_concurrency=1)
        order: list[int] = []
        open_lease = lease(house)

        def take_turn(number: int) -> float:
            mine = lease(house)
            order.append(number)
            mine.release()
            return mine.queue_s

        waiting = []
        for number in range(5):
            waiting.append(house.later(take_turn, number))
            house.clock.until_waiting(number + 1)
        house.clock.advance(2)
        open_lease.release()
        assert [future.result(HANG_S) for future in waiting] == [2.0] * 5
        assert order == [0, 1, 2, 3, 4]

    def test_a_full_queue_refuses(self, pool: ThreadPoolExecutor) -> None:
        """Beyond `max_concurrency` in flight and `max_queue` waiting, a caller is refused at once."""
        house = House(pool, max_concurrency=1, max_queue=2)
        open_lease = lease(house)
        waiting = [house.later(lambda: lease(house).release()) for _ in range(2)]
        house.clock.until_waiting(2)
        with pytest.raises(Overloaded):
            lease(house)
        open_lease.release()
        for future in waiting:
            future.result(HANG_S)
        lease(house).release()

    def test_a_leaver_makes_room(self, pool: ThreadPoolExecutor) -> None:
        """A client that leaves the queue's head hands its turn to the next."""
        house = House(pool, max_concurrency=1)
        open_lease, token = lease(house), CancelToken()
        leaver = house.later(house.supervisor.acquire, "tiny", token=token)
        house.clock.until_waiting(1)
        following = house.later(lease, house)
        house.clock.until_waiting(2)
        token.cancel()
        assert isinstance(error_of(leaver), Cancelled)
        open_lease.release()
        following.result(HANG_S).release()

    def test_waiting_for_a_turn_is_bounded(self, pool: ThreadPoolExecutor) -> None:
        """A request without a turn within `max_wait` hears that the model is busy, and the queue goes on without it."""
        house = House(pool, max_concurrency=1)
        open_lease = lease(house)
        late = house.later(lease, house)
        house.clock.until_waiting(1)
        house.clock.advance(60)
        assert "is busy: 1 requests in flight" in error_of(late).message
        open_lease.release()
        lease(house).release()
