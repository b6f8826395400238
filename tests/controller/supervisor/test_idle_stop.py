"""Idle stops: counted from the last release, and never in a request's way."""

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
        """A request longer than the idle timeout is not cut, and the full timeout follows its end."""
        held = lease(house)
        house.clock.advance(3 * 900)
        house.supervisor.reap()
        assert house.state() is State.READY
        held.release()
        house.clock.advance(899)
        house.supervisor.reap()
        assert house.state() is State.READY
        house.clock.advance(1)
        house.supervisor.reap()
        assert house.state() is State.STOPPED
        assert house.backend.calls == ["up tiny", "stop tiny-1"]

    def test_a_docker_that_hangs_closes_no_idle_model(self, house: House) -> None:
        """That Docker cannot stop it is found out while it still takes requests; a while later it is tried again."""
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
        """A request that meets an idle stop waits for it and gets a new start: none is lost to the reaper."""
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

    def test_a_run_during_an_idle_stop_is_kept_in_mind(self, house: House) -> None:
        """`run` without waiting, said while the model stops for idleness, starts it again when it has stopped."""
        lease(house).release()
        house.clock.advance(900)
        house.backend.stop_gate.clear()
        reaping = house.later(house.supervisor.reap)
        assert house.backend.stop_reached.wait(HANG_S)
        assert house.supervisor.run("tiny", wait=False).state is State.DRAINING
        house.backend.stop_gate.set()
        reaping.result(HANG_S)
        assert house.settled() is State.READY

    def test_who_expires_it_waits_for_its_end(self, house: House) -> None:
        """Whoever else found the model idle at the same moment, and stops it: `expire` returns when it has stopped."""
        lease(house).release()
        inspect, looked = house.backend.inspect, [threading.Event(), threading.Event()]
        go_on = [threading.Event(), threading.Event()]
        numbers = iter((0, 1))

        def held_up(container_id: str) -> Container | None:
            number = next(numbers, None)
            if number is not None:
                looked[number].set()
                assert go_on[number].wait(HANG_S)
            return inspect(container_id)

        house.backend.inspect = held_up  # type: ignore[method-assign]
        house.backend.stop_gate.clear()
        expiring = house.later(house.supervisor.expire, "tiny")
        assert looked[0].wait(HANG_S)
        reaping = house.later(house.supervisor.reap)
        assert looked[1].wait(HANG_S)
        go_on[1].set()
        assert house.backend.stop_reached.wait(HANG_S)
        go_on[0].set()
        house.clock.until_waiting(1)
        assert not expiring.done()
        house.backend.stop_gate.set()
        expiring.result(HANG_S)
        assert house.state() is State.STOPPED
        reaping.result(HANG_S)

    def test_who_expires_it_waits_for_no_drain(self, house: House) -> None:
        """While somebody's stop lets a request come to its end, `expire` does not wait: the model is in use."""
        held = lease(house)
        stopping = house.later(house.supervisor.stop, "tiny")
        until(lambda: house.state() is State.DRAINING)
        house.later(house.supervisor.expire, "tiny").result(HANG_S)
        assert not stopping.done()
        held.release()
        stopping.result(HANG_S)

    def test_an_idle_timeout_of_0_keeps_for_ever(self, pool: ThreadPoolExecutor) -> None:
        """`idle_timeout: 0` keeps a model until somebody stops it."""
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
        """A negative `keep_alive` takes the idle timeout away, also for later requests that bring none of their own."""
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
        """`keep_alive` is for the model that runs: started again, it has the idle timeout of models.yaml."""
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
        """Who waits for a turn gets it from the running model, though the request before wanted it stopped."""
        house = House(pool, max_concurrency=1)
        held = lease(house)
        second = house.later(lease, house)
        house.clock.until_waiting(1)
        held.release(keep_alive_s=0)
        house.supervisor.reap()
        second.result(HANG_S).release()
        assert house.backend.calls == ["up tiny"]
        house.supervisor.reap()
        assert house.state() is State.STOPPED

    def test_an_idle_model_expires_at_once(self, house: House) -> None:
        """Told to expire, an idle model has stopped when the call returns; one at rest stays so."""
        lease(house).release()
        house.supervisor.expire("tiny")
        assert house.state() is State.STOPPED
        house.supervisor.expire("tiny")
        assert house.backend.calls == ["up tiny", "stop tiny-1"]

    def test_a_used_model_expires_after_its_last_lease(self, house: House) -> None:
        """Told to expire, a model in use ends nobody's request, takes more, and stops after the last."""
        held = lease(house)
        house.supervisor.expire("tiny")
        lease(house).release()
        assert house.state() is State.READY
        held.release()
        house.supervisor.reap()
        assert house.state() is State.STOPPED

    def test_a_starting_model_expires_after_who_waits_for_it(self, house: House) -> None:
        """Told to expire while it starts, a model serves who waits for it, and then stops."""
        house.backend.up_gate.clear()
        waiting = house.later(lease, house)
        assert house.backend.up_reached.wait(HANG_S)
        house.supervisor.expire("tiny")
        house.backend.up_gate.set()
        waiting.result(HANG_S).release()
        house.supervisor.reap()
        assert house.state() is State.STOPPED

    def test_release_counts_once(self, house: House) -> None:
        """Releasing a lease twice gives it back once: nobody else's lease is lost by it."""
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
        held = lease(house)
        waiting = house.later(house.supervisor.rest_until_due, 1e9)
        house.clock.until_waiting(1)
        held.release(keep_alive_s=0)
        assert waiting.result(HANG_S) is True
        house.supervisor.reap()
        assert house.state() is State.STOPPED
