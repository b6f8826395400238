"""Changed entries put into force while the models are in every state."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import pytest

from controller.errors import Cancelled, DockerError, ModelStopping, OrchestrarError
from controller.supervisor import State
from controller.supervisor.backend import OnProgress, PreparationProgress
from tests.controller.supervisor.house import House, error_of, lease, until
from tests.fakes import HANG_S, make_container

OTHER_S = 7.0


def remake(house: House) -> None:
    """Have models.yaml change an entry such that its container has to be replaced."""
    house.specs["tiny"] = replace(house.specs["tiny"], max_wait_s=OTHER_S)
    house.supervisor.change(house.specs, remade={"tiny"})


def stopped_ids(house: House) -> list[str]:
    return [call.removeprefix("stop ") for call in house.backend.calls if call.startswith("stop ")]


def ups(house: House) -> int:
    return house.backend.calls.count("up tiny")


class TestRemake:
    def test_a_running_model_is_drained_before_it_is_replaced(self, house: House) -> None:
        """The request in flight keeps its container; a request meanwhile waits, and gets the new one."""
        open_lease = lease(house)
        remake(house)
        until(lambda: house.state() is State.DRAINING)
        waiter = house.later(lease, house)
        house.clock.until_waiting(2)
        assert not stopped_ids(house)
        open_lease.release()
        assert waiter.result(HANG_S).container_id != open_lease.container_id
        assert stopped_ids(house) == [open_lease.container_id]

    def test_a_start_under_way_begins_again_and_its_waiters_wait_on(self, house: House) -> None:
        """The waiters get what models.yaml says now, and nothing has failed."""
        house.backend.up_gate.clear()
        waiter = house.later(lease, house)
        assert house.backend.up_reached.wait(HANG_S)
        remake(house)
        slot = house.slot()
        until(lambda: slot.attempt is not None and slot.attempt.is_superseded)
        house.backend.up_gate.set()
        new_lease = waiter.result(HANG_S)
        assert ups(house) == 2
        assert new_lease.container_id in house.backend.containers
        assert house.supervisor.view("tiny").error is None

    def test_a_start_that_two_changes_meet_begins_again_once(self, house: House) -> None:
        """Only the first has the right to end it: the second would end what the first starts."""
        house.backend.up_gate.clear()
        house.later(lease, house)
        assert house.backend.up_reached.wait(HANG_S)
        slot = house.slot()
        attempt = slot.attempt
        assert attempt is not None
        first = house.later(house.supervisor._life.supersede, slot, attempt)
        until(lambda: attempt.is_superseded)
        second = house.later(house.supervisor._life.supersede, slot, attempt)
        house.backend.up_gate.set()
        assert [True, False] == [first.result(HANG_S), second.result(HANG_S)]
        house.supervisor._life.retire(slot, drain_s=0, is_claimed=True)

    def test_a_start_that_ends_with_the_controller_leaves_no_claim(
        self, house: House, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A stop that claims the model first keeps the claim for itself: two claims would end one model twice."""
        house.backend.up_gate.clear()
        request = house.later(lease, house)
        assert house.backend.up_reached.wait(HANG_S)
        slot = house.slot()
        attempt = slot.attempt
        assert attempt is not None
        attempt_fails = slot.attempt_fails

        def fail_and_be_claimed(error: OrchestrarError, **values: Any) -> bool:
            result = attempt_fails(error, **values)
            slot.claim()
            return result

        monkeypatch.setattr(slot, "attempt_fails", fail_and_be_claimed)
        change = house.later(house.supervisor._life.supersede, slot, attempt)
        until(lambda: attempt.is_superseded)
        house.supervisor.close()
        house.backend.up_gate.set()
        assert change.result(HANG_S) is False
        error_of(request)

    def test_a_pull_under_way_says_to_try_again(self, house: House) -> None:
        """What it fetched may not be what the model needs now."""

        def fetch(model_id: str, on_progress: OnProgress, cancelled: Callable[[], bool]) -> None:
            until(cancelled)
            raise Cancelled("the download ended")

        house.backend.prepared_models = set()
        house.backend.on_prepare = fetch
        pull = house.supervisor.pull("tiny")
        pulling: Future[list[PreparationProgress | None]] = house.later(list, pull)
        remake(house)
        error = error_of(pulling)
        assert isinstance(error, ModelStopping)
        assert "models.yaml changed tiny meanwhile" in error.message
        assert ups(house) == 0

    def test_one_that_cannot_be_stopped_serves_on_and_is_tried_again(self, house: House) -> None:
        """Docker's trouble costs no request; the old container serves until it can be replaced."""
        lease(house).release()
        house.backend.stop_error = DockerError("Docker did not stop it")
        remake(house)
        until(lambda: bool(stopped_ids(house)) and house.state() is State.READY)
        lease(house).release()
        assert ups(house) == 1
        house.backend.stop_error = None
        house.clock.until_waiting(1)
        house.clock.advance(10)
        until(lambda: ups(house) == 2 and house.state() is State.READY)

    def test_one_that_is_stopped_meanwhile_is_left_alone(self, house: House) -> None:
        """The next start works by the new entry anyway; a stop by hand is respected."""
        open_lease = lease(house)
        remake(house)
        until(lambda: house.state() is State.DRAINING)
        stopping = house.later(house.supervisor.stop, "tiny")
        until(lambda: house.slot().stop_requested)
        open_lease.release()
        stopping.result(HANG_S)
        assert house.state_after_start() is State.STOPPED
        assert ups(house) == 1

    def test_one_that_rests_is_not_started(self, house: House) -> None:
        """Only a model that ran runs again."""
        remake(house)
        until(lambda: house.slot().spec.max_wait_s == OTHER_S)
        assert house.state() is State.STOPPED
        assert not house.backend.calls


class TestDrop:
    def test_it_drains_what_is_in_flight_and_then_refuses_for_good(self, house: House) -> None:
        """A model that models.yaml no longer has ends what it does, and takes nothing new."""
        open_lease = lease(house)
        dropping = house.later(house.supervisor.drop, ["tiny"])
        until(lambda: house.state() is State.DRAINING)
        with pytest.raises(ModelStopping):
            lease(house)
        assert not stopped_ids(house)
        open_lease.release()
        dropping.result(HANG_S)
        assert stopped_ids(house) == [open_lease.container_id]
        with pytest.raises(ModelStopping):
            lease(house)

    def test_one_that_cannot_be_stopped_goes_on(self, house: House) -> None:
        """The change did not happen, and nothing of the old is lost."""
        lease(house).release()
        house.backend.stop_error = DockerError("Docker did not stop it")
        with pytest.raises(DockerError):
            house.supervisor.drop(["tiny"])
        lease(house).release()


class TestContainersThatMayStillRun:
    def test_memory_of_a_start_that_docker_failed_counts_until_a_look(self, house: House) -> None:
        """`up` may have failed after the container was created: no other model gets its memory before a look."""
        house.backend.up_error = DockerError("Docker did not answer")
        assert isinstance(error_of(house.later(lease, house)), DockerError)
        slot = house.slot()
        assert slot.holds is not None
        house.supervisor.adopt("tiny")
        assert slot.holds is None

    def test_a_stop_of_a_model_being_adopted_gives_it_its_grace(
        self, patient_house: House, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Requests of another process may be in flight there: it is stopped as any other, not killed."""
        house, graces_s = patient_house, list[int]()
        stop = house.backend.stop

        def noting_stop(container_id: str, *, grace_s: int) -> None:
            graces_s.append(grace_s)
            stop(container_id, grace_s=grace_s)

        monkeypatch.setattr(house.backend, "stop", noting_stop)
        container = make_container("tiny")
        house.backend.containers[container.id] = container
        house.backend.ready = False
        house.supervisor.adopt("tiny")
        assert house.state() is State.STARTING
        house.supervisor.stop("tiny")
        assert house.state_after_start() is State.STOPPED
        assert graces_s
        assert min(graces_s) > 0
