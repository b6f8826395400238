"""Models with `preload` start ahead of requests, also if Docker comes and goes, and stop no other model."""

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
    """Boot a controller in which `tiny` has `preload` and `other` has not."""
    house.specs["tiny"] = replace(house.specs["tiny"], preload=True, min_residency_s=0.0)
    house.supervisor = house.boot()
    return house


def look(house: House) -> None:
    """Do the monitor's regular look at Docker."""
    Monitor(house.supervisor, clock=house.clock).work()


def go_away(house: House) -> None:
    """Let Docker not answer any more."""

    def find_all() -> list[object]:
        raise AWAY

    house.backend.find_all = find_all  # type: ignore[method-assign, assignment]


def come_back(house: House) -> None:
    del house.backend.find_all


def ups(house: House, model_id: str = "tiny") -> int:
    return house.backend.calls.count(f"up {model_id}")


class TestWithTheController:
    def test_only_that_model_starts(self, house: House) -> None:
        look(house)
        assert house.state_after_start() is State.READY
        look(house)
        assert ["up tiny"] == house.backend.calls

    def test_it_starts_when_docker_is_back(self, house: House) -> None:
        """It needs no request after a reboot."""
        go_away(house)
        look(house)
        assert ups(house) == 0
        come_back(house)
        look(house)
        assert house.state_after_start() is State.READY

    def test_a_start_that_docker_failed_is_tried_again(self, house: House) -> None:
        """Docker answered the look and was away for the start: the next look tries again."""
        house.backend.up_error = AWAY
        look(house)
        assert house.state_after_start() is State.FAILED
        house.backend.up_error = None
        look(house)
        assert house.state_after_start() is State.READY

    def test_a_start_that_failed_by_itself_is_not_tried_again(self, house: House) -> None:
        """The failure is shown, and a request or `POST /run` tries again."""
        house.backend.up_error = StartFailed("it crashed")
        look(house)
        assert house.state_after_start() is State.FAILED
        house.backend.up_error = None
        house.clock.advance(60)
        look(house)
        assert house.state_after_start() is State.FAILED

    def test_a_stop_is_respected(self, house: House) -> None:
        """A stop before the model could start keeps it from starting."""
        house.supervisor.stop("tiny")
        look(house)
        assert (house.state_after_start(), ups(house)) == (State.STOPPED, 0)


class TestByAReload:
    @pytest.mark.parametrize("is_added", [True, False])
    def test_one_that_is_added_or_turned_on_starts(self, house: House, is_added: bool) -> None:
        if is_added:
            house.supervisor.change({"tiny": house.specs["tiny"]}, remade=())
        house.specs["other"] = replace(house.specs["other"], preload=True)
        house.supervisor.change(house.specs, remade=())
        look(house)
        assert house.state_after_start("other") is State.READY

    def test_one_that_is_turned_off_before_it_started_does_not(self, house: House) -> None:
        house.specs["tiny"] = replace(house.specs["tiny"], preload=False)
        house.supervisor.change(house.specs, remade=())
        look(house)
        assert (house.state_after_start(), ups(house)) == (State.STOPPED, 0)

    def test_one_that_was_stopped_is_not_started_by_another_change(self, house: House) -> None:
        house.supervisor.stop("tiny")
        house.specs["tiny"] = replace(house.specs["tiny"], idle_timeout_s=5.0)
        house.supervisor.change(house.specs, remade=())
        look(house)
        assert (house.state_after_start(), ups(house)) == (State.STOPPED, 0)


class TestAfterDockerWasAway:
    def test_models_that_were_lost_with_it_start_again(self, house: House) -> None:
        """Its container ended with the engine; when the engine is back, even if it does not answer at first, so is the
        model. One without `preload` waits for its next request."""
        follower = DockerEventFollower(house.supervisor, clock=house.clock)
        look(house)
        house.state_after_start()
        house.supervisor.acquire("other").release()
        for container in house.backend.find_all():
            house.backend.end(container.id, exit_code=137)
        go_away(house)
        follower.note_gap()
        follower.work()
        come_back(house)
        follower.work()
        assert house.state_after_start() is State.READY
        assert (2, 1) == (ups(house), ups(house, "other"))
        assert house.state("other") is State.STOPPED

    def test_also_if_a_request_had_tried_in_vain(self, house: House) -> None:
        """Docker was away for that start, too: the lost model is still started."""
        look(house)
        house.state_after_start()
        look(house)
        house.backend.end("tiny-1", exit_code=137)
        house.supervisor.adopt()
        house.backend.up_error = AWAY
        assert error_of(house.later(house.supervisor.acquire, "tiny")).code == AWAY.code
        house.backend.up_error = None
        house.supervisor.adopt()
        house.supervisor.preload(after_gap=True)
        assert house.state_after_start() is State.READY

    @pytest.mark.parametrize("how", ["stop", "stop when it was lost", "idle", "eviction"])
    def test_models_that_the_controller_stopped_stay_at_rest(self, house: House, how: str) -> None:
        look(house)
        house.state_after_start()
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
        assert (house.state_after_start(), ups(house)) == (State.STOPPED, 1)

    def test_a_stop_by_hand_is_respected_while_docker_stays(self, house: House) -> None:
        """Without a gap in the events, `docker stop` is respected, as for any other model."""
        look(house)
        house.state_after_start()
        house.backend.end("tiny-1", exit_code=137)
        look(house)
        look(house)
        assert (house.state_after_start(), ups(house)) == (State.STOPPED, 1)


class TestRoom:
    @pytest.fixture
    def full(self, house: House) -> House:
        """Boot a house in which `other` serves and has all the memory."""
        house.specs["other"] = replace(house.specs["other"], min_residency_s=0.0)
        house.supervisor = house.boot()
        house.backend.budget = Amount(memory_bytes=1)
        house.supervisor.acquire("other").release()
        house.clock.advance(100)
        look(house)
        until(lambda: house.supervisor.view("tiny").waits_for == ("other",))
        return house

    def test_no_model_is_stopped_for_it(self, full: House) -> None:
        """It waits for room as long as a request would, and gives up."""
        full.clock.until_waiting(1)
        full.clock.advance(59)
        full.clock.until_waiting(1)
        assert full.state("other") is State.READY
        full.clock.advance(1)
        assert full.state_after_start() is State.STOPPED
        assert full.state("other") is State.READY
        look(full)
        assert (full.state_after_start(), ups(full)) == (State.STOPPED, 0)

    def test_it_takes_room_that_becomes_free(self, full: House) -> None:
        full.supervisor.stop("other")
        assert full.state_after_start() is State.READY

    def test_a_request_for_it_makes_room(self, full: House) -> None:
        """A request comes for it from then on."""
        asking = full.later(full.supervisor.acquire, "tiny")
        full.clock.until_waiting(2)
        full.clock.advance(1)
        asking.result(HANG_S).release()
        assert full.state("other") is State.STOPPED

    def test_requests_do_not_queue_behind_it(self, full: House) -> None:
        """A later request for another model stops others although the preload came first."""
        third = replace(full.specs["other"], id="third")
        full.backend.models.append("third")
        full.supervisor.change({**full.specs, "third": third}, remade=())
        full.supervisor.acquire("third", max_wait_s=5).release()
        assert full.state("other") is State.STOPPED
        until(lambda: full.supervisor.view("tiny").waits_for == ("third",))
