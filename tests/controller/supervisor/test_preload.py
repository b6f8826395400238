"""Models with `preload` run without being asked for, beside a Docker that comes and goes, and in nobody's way."""

from __future__ import annotations

from dataclasses import replace

import pytest

from controller.errors import DockerUnavailable, StartFailed
from controller.supervisor import DockerEventFollower, Monitor, State
from controller.supervisor.backend import Amount
from tests.controller.supervisor.house import House, error_of, until
from tests.fakes import HANG_S

AWAY = DockerUnavailable("away")


@pytest.fixture
def house(house: House) -> House:
    """As after a start of the controller, where `tiny` is to be preloaded and `other` is not."""
    house.specs["tiny"] = replace(house.specs["tiny"], preload=True, min_residency_s=0.0)
    house.supervisor = house.boot()
    return house


def look(house: House) -> None:
    """The monitor's regular look at Docker."""
    Monitor(house.supervisor, clock=house.clock).work()


def go_away(house: House) -> None:
    """Docker answers no more."""

    def find_all() -> list[object]:
        raise AWAY

    house.backend.find_all = find_all  # type: ignore[method-assign, assignment]


def come_back(house: House) -> None:
    del house.backend.find_all


def ups(house: House, model_id: str = "tiny") -> int:
    return house.backend.calls.count(f"up {model_id}")


class TestWithTheController:
    def test_it_starts_and_only_it(self, house: House) -> None:
        look(house)
        assert house.settled() is State.READY
        look(house)
        assert ["up tiny"] == house.backend.calls

    def test_beside_a_docker_that_is_away_it_starts_when_that_is_back(self, house: House) -> None:
        """As after a reboot: nobody has to ask for it."""
        go_away(house)
        look(house)
        assert ups(house) == 0
        come_back(house)
        look(house)
        assert house.settled() is State.READY

    def test_a_start_that_docker_failed_is_tried_again(self, house: House) -> None:
        """Docker answered the look and was away for the start: the next look tries again."""
        house.backend.up_error = AWAY
        look(house)
        assert house.settled() is State.FAILED
        house.backend.up_error = None
        look(house)
        assert house.settled() is State.READY

    def test_a_start_that_failed_by_itself_is_not(self, house: House) -> None:
        """The failure is shown, and a request or `POST /run` tries again."""
        house.backend.up_error = StartFailed("it crashed")
        look(house)
        assert house.settled() is State.FAILED
        house.backend.up_error = None
        house.clock.advance(60)
        look(house)
        assert house.settled() is State.FAILED

    def test_a_stop_is_respected(self, house: House) -> None:
        """Whoever stops it before it could start has the last word."""
        house.supervisor.stop("tiny")
        look(house)
        assert (house.settled(), ups(house)) == (State.STOPPED, 0)


class TestByAReload:
    @pytest.mark.parametrize("is_added", [True, False])
    def test_one_that_is_added_or_turned_on_starts(self, house: House, is_added: bool) -> None:
        if is_added:
            house.supervisor.change({"tiny": house.specs["tiny"]}, remade=())
        house.specs["other"] = replace(house.specs["other"], preload=True)
        house.supervisor.change(house.specs, remade=())
        look(house)
        assert house.settled("other") is State.READY

    def test_one_that_is_turned_off_before_it_started_does_not(self, house: House) -> None:
        house.specs["tiny"] = replace(house.specs["tiny"], preload=False)
        house.supervisor.change(house.specs, remade=())
        look(house)
        assert (house.settled(), ups(house)) == (State.STOPPED, 0)

    def test_one_that_was_stopped_is_not_started_by_another_change(self, house: House) -> None:
        house.supervisor.stop("tiny")
        house.specs["tiny"] = replace(house.specs["tiny"], idle_timeout_s=5.0)
        house.supervisor.change(house.specs, remade=())
        look(house)
        assert (house.settled(), ups(house)) == (State.STOPPED, 0)


class TestAfterDockerWasAway:
    def test_what_it_took_with_it_starts_again(self, house: House) -> None:
        """Its container ended with the engine; when the engine is back, even if it does not answer at first, so is the
        model. One without `preload` waits for its next request."""
        follower = DockerEventFollower(house.supervisor, clock=house.clock)
        look(house)
        house.settled()
        house.supervisor.acquire("other").release()
        for container in house.backend.find_all():
            house.backend.end(container.id, exit_code=137)
        go_away(house)
        follower.note_gap()
        follower.work()
        come_back(house)
        follower.work()
        assert house.settled() is State.READY
        assert (2, 1) == (ups(house), ups(house, "other"))
        assert house.state("other") is State.STOPPED

    def test_also_when_a_request_had_tried_it_in_vain(self, house: House) -> None:
        """Docker was away for that start, too: what it took with it is still owed one."""
        look(house)
        house.settled()
        look(house)
        house.backend.end("tiny-1", exit_code=137)
        house.supervisor.adopt()
        house.backend.up_error = AWAY
        assert error_of(house.later(house.supervisor.acquire, "tiny")).code == AWAY.code
        house.backend.up_error = None
        house.supervisor.adopt()
        house.supervisor.preload(after_gap=True)
        assert house.settled() is State.READY

    @pytest.mark.parametrize("how", ["stop", "stop when it was lost", "idle", "eviction"])
    def test_what_the_controller_put_to_rest_stays_so(self, house: House, how: str) -> None:
        look(house)
        house.settled()
        if how == "stop when it was lost":
            house.backend.end("tiny-1", exit_code=137)
            house.supervisor.adopt()
        if how.startswith("stop"):
            house.supervisor.stop("tiny")
        elif how == "idle":
            house.supervisor.expire("tiny")
        else:
            house.backend.budget = Amount(memory_bytes=1)
            house.supervisor.acquire("other").release()
        assert house.state() is State.STOPPED
        house.supervisor.adopt()
        house.supervisor.preload(after_gap=True)
        look(house)
        assert (house.settled(), ups(house)) == (State.STOPPED, 1)

    def test_a_stop_by_hand_is_respected_while_docker_stays(self, house: House) -> None:
        """Without a gap, `docker stop` has the last word, as for any other model."""
        look(house)
        house.settled()
        house.backend.end("tiny-1", exit_code=137)
        look(house)
        look(house)
        assert (house.settled(), ups(house)) == (State.STOPPED, 1)


class TestRoom:
    @pytest.fixture
    def full(self, house: House) -> House:
        """`other` serves, and has all the memory."""
        house.specs["other"] = replace(house.specs["other"], min_residency_s=0.0)
        house.supervisor = house.boot()
        house.backend.budget = Amount(memory_bytes=1)
        house.supervisor.acquire("other").release()
        house.clock.advance(100)
        look(house)
        until(lambda: house.supervisor.view("tiny").waits_for == ("other",))
        return house

    def test_nobody_leaves_for_it(self, full: House) -> None:
        """It waits for room as long as a request would, and gives up."""
        full.clock.until_waiting(1)
        full.clock.advance(59)
        full.clock.until_waiting(1)
        assert full.state("other") is State.READY
        full.clock.advance(1)
        assert full.settled() is State.STOPPED
        assert full.state("other") is State.READY
        look(full)
        assert (full.settled(), ups(full)) == (State.STOPPED, 0)

    def test_it_takes_room_that_becomes_free(self, full: House) -> None:
        full.supervisor.stop("other")
        assert full.settled() is State.READY

    def test_a_request_for_it_makes_room(self, full: House) -> None:
        """From then on somebody asks for it."""
        asking = full.later(full.supervisor.acquire, "tiny")
        full.clock.until_waiting(2)
        full.clock.advance(1)
        asking.result(HANG_S).release()
        assert full.state("other") is State.STOPPED

    def test_requests_do_not_queue_behind_it(self, full: House) -> None:
        """A model that is asked for later makes others leave although the preload came first."""
        third = replace(full.specs["other"], id="third")
        full.backend.models.append("third")
        full.supervisor.change({**full.specs, "third": third}, remade=())
        full.supervisor.acquire("third", max_wait_s=5).release()
        assert full.state("other") is State.STOPPED
        until(lambda: full.supervisor.view("tiny").waits_for == ("third",))
