"""Models that fail are left alone for longer and longer; only failures of their own count."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.docker.endings import Ending
from controller.errors import BackingOff, ImageMissing, StartFailed
from controller.supervisor import State
from controller.supervisor.failures.backoff import delay_s
from tests.controller.supervisor.house import House, lease
from tests.fakes import make_container


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_delays_double_up_to_five_minutes(failures: int, chance: float) -> None:
    """They are 1, 2, 4 … s and never more than 5 min, give or take a fifth."""
    plain_s = min(2.0 ** (failures - 1) if failures < 20 else 1e9, 300.0)
    assert 0.8 * plain_s <= delay_s(failures, lambda: chance) <= 1.2 * plain_s + 1e-9


def fail(house: House) -> None:
    house.backend.up_error = StartFailed("no", details={"exit_code": 3, "log": ["why"]})
    with pytest.raises(StartFailed):
        lease(house)


class TestFailingStarts:
    def test_each_failure_doubles_the_wait(self, house: House) -> None:
        """Requests in between are refused with the card and the time, without touching Docker; then one tries."""
        for number in range(1, 12):
            fail(house)
            with pytest.raises(BackingOff, match=f"failed {number} times in a row") as refusal:
                lease(house)
            wait_s = refusal.value.retry_after_s
            plain_s = min(2.0 ** (number - 1), 300)
            assert wait_s is not None
            assert 0.8 * plain_s <= wait_s <= 1.2 * plain_s
            assert refusal.value.details["log"] == ["why"]
            assert house.backend.calls == ["up tiny"] * number
            assert house.state() is State.FAILED
            house.clock.advance(wait_s)

    def test_a_changed_entry_is_tried_at_once(self, house: House) -> None:
        """What failed is not what models.yaml says now; another model's change is no reason."""
        for _ in range(3):
            house.clock.advance(5)
            fail(house)
        with pytest.raises(BackingOff):
            lease(house)
        house.specs["other"] = replace(house.specs["other"], env={"X": "1"})
        house.supervisor.change(house.specs, remade=())
        with pytest.raises(BackingOff):
            lease(house)
        house.backend.up_error = None
        house.specs["tiny"] = replace(house.specs["tiny"], env={"X": "1"})
        house.supervisor.change(house.specs, remade=("tiny",))
        lease(house).release()
        assert house.supervisor.view("tiny").failures == 0

    def test_run_tries_at_once(self, house: House) -> None:
        """A user who asks by POST /run does not wait, and a start that works resets the count."""
        fail(house)
        house.backend.up_error = None
        assert house.supervisor.run("tiny", wait=True).state is State.READY
        assert house.supervisor.view("tiny").failures == 0

    def test_what_is_no_failure_of_the_model_does_not_count(self, house: House) -> None:
        """An image that is missing is looked for again at the next request."""
        house.backend.up_error = ImageMissing("no image")
        for _ in range(3):
            with pytest.raises(ImageMissing):
                lease(house)

    def test_a_start_stopped_by_hand_does_not_count(self, house: House) -> None:
        """A container that is removed while it starts is tried again at once."""
        house.backend.ready = False
        house.backend.inspect = lambda container_id: None  # type: ignore[method-assign]
        for _ in range(3):
            with pytest.raises(StartFailed, match="was removed"):
                lease(house)

    def test_a_kill_by_hand_does_not_count(self, house: House) -> None:
        """A container that a user stops while it starts is tried again at once, and the answer says why."""
        house.backend.ready = False
        house.backend.after_up = lambda c: replace(c, status="exited", exit_code=137)
        house.backend.ending = lambda container_id: Ending(is_known=True, was_ordered=True)  # type: ignore[method-assign]
        for _ in range(3):
            with pytest.raises(StartFailed, match="was stopped from outside") as failure:
                lease(house)
            assert 137 == failure.value.details["exit_code"]


class TestDeaths:
    def crash(self, house: House, **values: object) -> None:
        container = house.backend.find("tiny")
        assert container is not None
        changes = {"status": "exited", "exit_code": 1, **values}
        house.backend.containers[container.id] = replace(container, **changes)  # type: ignore[arg-type]
        house.supervisor.adopt("tiny")

    def test_the_first_death_costs_no_wait(self, house: House) -> None:
        """A request can so be asked once more; the next deaths within a minute cost a wait."""
        lease(house).release()
        self.crash(house)
        lease(house).release()
        self.crash(house)
        with pytest.raises(BackingOff, match="ended while serving \\(exit code 1\\): the last line"):
            lease(house)

    def test_long_service_is_no_loop(self, house: House) -> None:
        """Deaths a minute apart never cost a wait: no lease raises."""
        for _ in range(5):
            lease(house).release()
            house.clock.advance(60)
            self.crash(house)

    @pytest.mark.parametrize("code", [0, 1, 137, 143])
    def test_a_stop_by_hand_is_no_death(self, house: House, code: int) -> None:
        """The exit code does not matter."""
        for number in range(1, 5):
            house.backend.endings[f"tiny-{number}"] = Ending(is_known=True, was_ordered=True)
            lease(house).release()
            self.crash(house, exit_code=code)
            assert house.supervisor.view("tiny").error is None

    @pytest.mark.parametrize("code", [0, 1, 137, 143])
    def test_an_end_without_an_order_is_a_death(self, house: House, code: int) -> None:
        """For a kill without Docker, or a server that exits by itself, Docker reports an end without an order."""
        house.backend.endings["tiny-1"] = Ending(is_known=True)
        lease(house).release()
        self.crash(house, exit_code=code)
        error = house.supervisor.view("tiny").error
        assert error is not None
        assert f"ended while serving (exit code {code})" in error.message

    def test_an_end_that_docker_did_not_report(self, house: House) -> None:
        """It is a death if it does not look like a stop."""
        for code, is_death in ((0, False), (137, False), (143, False), (1, True)):
            lease(house).release()
            self.crash(house, exit_code=code)
            assert (house.supervisor.view("tiny").error is not None) is is_death

    def test_memory_that_ran_out_is_a_death(self, house: House) -> None:
        """Exit code 137 with Docker's evidence gives the limit, the peak and the fix."""
        lease(house).release()
        house.supervisor.measure()
        self.crash(house, exit_code=137, oom_killed=True)
        error = house.supervisor.view("tiny").error
        assert error is not None
        assert "at its limit of 1024m; raise its resources.memory above 1024m" in error.message
        assert error.details["memory_peak_bytes"] == 1000

    def test_a_death_before_our_time_is_none(self, house: House) -> None:
        """A container that ended before this controller started is no failure of the model."""
        dead = make_container("tiny", status="exited", exit_code=1)
        house.backend.containers[dead.id] = dead
        house.supervisor.adopt()
        lease(house).release()
        assert house.supervisor.view("tiny").failures == 0
