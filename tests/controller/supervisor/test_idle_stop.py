"""Idle stops: they count from the last release and never cost a request."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from controller.docker.container import Container
from controller.errors import DockerTimeout
from controller.supervisor import State
from tests.controller.supervisor.house import House, lease, until
from tests.fakes import HANG_S


class TestIdle:
    def test_idle_time_counts_from_the_last_release(self, house: House) -> None:
        """A request longer than the idle timeout is not cut, and the full timeout begins at its end."""
        open_lease = lease(house)
        house.clock.advance(3 * 900)
        house.supervisor.reap()
        assert house.state() is State.READY
        open_lease.release()
        house.clock.advance(899)
        house.supervisor.reap()
        assert house.state() is State.READY
        house.clock.advance(1)
        house.supervisor.reap()
        assert house.state() is State.STOPPED
        assert house.backend.calls == ["up tiny", "stop tiny-1"]

    def test_a_hung_docker_closes_no_idle_model(self, house: House) -> None:
        """The model still accepts requests while we find out that Docker hangs; later it is tried again."""
        lease(house).release()
        house.clock.advance(900)
        inspect, states = house.backend.inspect, []

        def hung(container_id: str) -> Container:
            states.append(house.state())
            raise DockerTimeout("Docker did not answer")

        house.backend.inspect = hung  # type: ignore[method-assign]
        house.supervisor.reap()
        house.supervisor.reap()
        assert states == [State.READY]
        house.backend.inspect = inspect  # type: ignore[method-assign]
        house.clock.advance(10)
        house.supervisor.reap()
        assert house.state() is State.STOPPED

    def test_a_request_during_an_idle_stop_is_served(self, house: House) -> None:
        """A request that meets an idle stop waits for it and gets a new start: no request is lost."""
        lease(house).release()
        house.clock.advance(900)
        house.backend.stop_gate.clear()
        reaping = house.later(house.supervisor.reap)
        assert house.backend.stop_reached.wait(HANG_S)
        request = house.later(lease, house)
        house.clock.until_waiting(1)
        house.backend.stop_gate.set()
        request.result(HANG_S).release()
        reaping.result(HANG_S)
        assert house.backend.calls == ["up tiny", "stop tiny-1", "up tiny"]

    def test_a_run_during_an_idle_stop_starts_the_model_again(self, house: House) -> None:
        """`run` without waiting, called while the idle model stops, starts it again when it has stopped."""
        lease(house).release()
        house.clock.advance(900)
        house.backend.stop_gate.clear()
        reaping = house.later(house.supervisor.reap)
        assert house.backend.stop_reached.wait(HANG_S)
        assert house.supervisor.run("tiny", wait=False).state is State.DRAINING
        house.backend.stop_gate.set()
        reaping.result(HANG_S)
        assert house.state_after_start() is State.READY

    def test_expire_waits_for_an_idle_stop_under_way(self, house: House) -> None:
        """If another thread stops the model as idle at the same moment, `expire` returns when it has stopped."""
        lease(house).release()
        inspect, looks = house.backend.inspect, [threading.Event(), threading.Event()]
        go_on = [threading.Event(), threading.Event()]
        numbers = iter((0, 1))

        def slow(container_id: str) -> Container | None:
            number = next(numbers, None)
            if number is not None:
                looks[number].set()
                assert go_on[number].wait(HANG_S)
            return inspect(container_id)

        house.backend.inspect = slow  # type: ignore[method-assign]
        house.backend.stop_gate.clear()
        expiring = house.later(house.supervisor.expire, "tiny")
        assert looks[0].wait(HANG_S)
        reaping = house.later(house.supervisor.reap)
        assert looks[1].wait(HANG_S)
        go_on[1].set()
        assert house.backend.stop_reached.wait(HANG_S)
        go_on[0].set()
        house.clock.until_waiting(1)
        assert not expiring.done()
        house.backend.stop_gate.set()
        expiring.result(HANG_S)
        assert house.state() is State.STOPPED
        reaping.result(HANG_S)

    def test_expire_waits_for_no_drain(self, house: House) -> None:
        """While a user's stop waits for a request to end, `expire` does not wait: the model is in use."""
        open_lease = lease(house)
        stopping = house.later(house.supervisor.stop, "tiny")
        until(lambda: house.state() is State.DRAINING)
        house.later(house.supervisor.expire, "tiny").result(HANG_S)
        assert not stopping.done()
        open_lease.release()
        stopping.result(HANG_S)

    def test_an_idle_timeout_of_0_keeps_for_ever(self, pool: ThreadPoolExecutor) -> None:
        """`idle_timeout: 0` keeps a model until a user stops it."""
        house = House(pool, idle_timeout_s=0.0)
        lease(house).release()
        house.clock.advance(1e6)
        house.supervisor.reap()
        assert house.state() is State.READY

    def test_keep_alive_0_stops_right_after(self, house: House) -> None:
        """A request's `keep_alive` of 0 makes the model due when that request is over, time after time."""
        for _ in range(2):
            lease(house).release(keep_alive_s=0)
            house.supervisor.reap()
            assert house.state() is State.STOPPED

    def test_keep_alive_below_0_keeps_for_ever(self, house: House) -> None:
        """A negative `keep_alive` removes the idle timeout, also for later requests without one of their own."""
        for keep_alive_s in (-1, None):
            lease(house).release(keep_alive_s=keep_alive_s)
            house.clock.advance(1e6)
            house.supervisor.reap()
            assert house.state() is State.READY
        assert house.supervisor.view("tiny").idle_timeout_s is None
        lease(house).release(keep_alive_s=5)
        house.clock.advance(5)
        house.supervisor.reap()
        assert house.state() is State.STOPPED

    def test_a_new_start_forgets_keep_alive(self, house: House) -> None:
        """`keep_alive` is for the present run: after a new start the idle timeout of models.yaml counts."""
        lease(house).release(keep_alive_s=-1)
        house.supervisor.stop("tiny")
        lease(house).release()
        assert house.supervisor.view("tiny").idle_stop_in_s == 900

    def test_keep_alive_0_lets_others_end(self, house: House) -> None:
        """A `keep_alive` of 0 stops the model after the last lease, not under one."""
        other = lease(house)
        lease(house).release(keep_alive_s=0)
        house.supervisor.reap()
        assert house.state() is State.READY
        other.release()
        house.supervisor.reap()
        assert house.state() is State.STOPPED

    def test_keep_alive_0_serves_the_queue_first(self, pool: ThreadPoolExecutor) -> None:
        """A request in the queue gets its turn on the running model although the one before wanted it stopped."""
        house = House(pool, max_concurrency=1)
        open_lease = lease(house)
        second = house.later(lease, house)
        house.clock.until_waiting(1)
        open_lease.release(keep_alive_s=0)
        house.supervisor.reap()
        second.result(HANG_S).release()
        assert house.backend.calls == ["up tiny"]
        house.supervisor.reap()
        assert house.state() is State.STOPPED

    def test_an_idle_model_expires_at_once(self, house: House) -> None:
        """When `expire` returns, an idle model has stopped; one at rest stays so."""
        lease(house).release()
        house.supervisor.expire("tiny")
        assert house.state() is State.STOPPED
        house.supervisor.expire("tiny")
        assert house.backend.calls == ["up tiny", "stop tiny-1"]

    def test_a_used_model_expires_after_its_last_lease(self, house: House) -> None:
        """After `expire`, a model in use cuts no request, accepts more, and stops after the last one."""
        open_lease = lease(house)
        house.supervisor.expire("tiny")
        lease(house).release()
        assert house.state() is State.READY
        open_lease.release()
        house.supervisor.reap()
        assert house.state() is State.STOPPED

    def test_a_starting_model_expires_after_its_waiters(self, house: House) -> None:
        """If `expire` comes while it starts, a model serves the requests that wait for it, and then stops."""
        house.backend.up_gate.clear()
        waiting = house.later(lease, house)
        assert house.backend.up_reached.wait(HANG_S)
        house.supervisor.expire("tiny")
        house.backend.up_gate.set()
        waiting.result(HANG_S).release()
        house.supervisor.reap()
        assert house.state() is State.STOPPED

    def test_release_counts_once(self, house: House) -> None:
        """Releasing a lease twice returns it once: no other lease is lost by it."""
        first, second = lease(house), lease(house)
        first.release()
        first.release()
        assert house.supervisor.view("tiny").in_flight == 1
        second.release()

    def test_the_monitor_sleeps_until_something_is_due(self, house: House) -> None:
        """The monitor's wait ends at the idle deadline, not before it and not at its own interval."""
        lease(house).release()
        waiting = house.later(house.supervisor.rest_until_due, 1e9)
        house.clock.until_waiting(1)
        house.clock.advance(900)
        assert waiting.result(HANG_S) is True

    def test_a_release_that_is_due_sooner_wakes_the_monitor(self, house: House) -> None:
        """A request with a short `keep_alive` does not wait for the monitor to wake by itself."""
        open_lease = lease(house)
        waiting = house.later(house.supervisor.rest_until_due, 1e9)
        house.clock.until_waiting(1)
        open_lease.release(keep_alive_s=0)
        assert waiting.result(HANG_S) is True
        house.supervisor.reap()
        assert house.state() is State.STOPPED
