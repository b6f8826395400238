"""Stops: they refuse, drain, end and verify."""

from __future__ import annotations

import threading

import pytest

from controller.errors import (
    DockerUnavailable,
    ModelBusy,
    ModelStopping,
)
from controller.supervisor import State
from tests.controller.supervisor.house import House, error_of, lease, until
from tests.fakes import HANG_S, make_container


class TestStop:
    def test_stop_refuses_new_work_and_drains(self, house: House) -> None:
        """A stop lets the request in flight end, refuses new ones meanwhile, and later ones start the model again."""
        open_lease = lease(house)
        stopping = house.later(house.supervisor.stop, "tiny")
        house.clock.until_waiting(1)
        with pytest.raises(ModelStopping):
            lease(house)
        assert "stop tiny-1" not in house.backend.calls
        open_lease.release()
        stopping.result(HANG_S)
        assert house.state() is State.STOPPED
        lease(house).release()
        assert house.backend.calls == ["up tiny", "stop tiny-1", "up tiny"]

    def test_the_drain_is_bounded(self, house: House) -> None:
        """A request that does not end within the grace period does not keep the model from stopping."""
        open_lease = lease(house)
        stopping = house.later(house.supervisor.stop, "tiny")
        house.clock.until_waiting(1)
        house.clock.advance(30)
        stopping.result(HANG_S)
        assert house.state() is State.STOPPED
        open_lease.release()
        assert house.supervisor.view("tiny").in_flight == 0

    def test_stopping_a_start(self, house: House) -> None:
        """A stop ends a start under way: its container is stopped and its requests get `model_stopping`."""
        house.backend.up_gate.clear()
        request = house.later(lease, house)
        assert house.backend.up_reached.wait(HANG_S)
        attempt = house.slot().attempt
        assert attempt is not None
        stopping = house.later(house.supervisor.stop, "tiny")
        until(lambda: attempt.cancelled)
        house.backend.ready = False
        house.backend.up_gate.set()
        stopping.result(HANG_S)
        assert isinstance(error_of(request), ModelStopping)
        assert house.state() is State.STOPPED
        assert house.backend.find("tiny") is not None
        assert not any(c.running for c in house.backend.find_all())

    def test_a_stop_waits_for_no_hung_docker(self, house: House) -> None:
        """If a start is in a Docker call when the grace is over, the stop says so, and the start ends later."""
        house.backend.up_gate.clear()
        request = house.later(lease, house)
        assert house.backend.up_reached.wait(HANG_S)
        stopping = house.later(house.supervisor.stop, "tiny")
        assert isinstance(error_of(request), ModelStopping)
        house.clock.until_waiting(1)
        house.clock.advance(30)
        assert "its start waits for Docker" in error_of(stopping).message
        house.backend.ready = False
        house.backend.up_gate.set()
        house.state_after_start()
        assert not any(container.running for container in house.backend.find_all())

    def test_a_refusal_says_when_to_come_back(self, house: House) -> None:
        """`Retry-After` of a model that is being stopped is what its requests in flight have left."""
        open_lease = lease(house)
        stopping = house.later(house.supervisor.stop, "tiny")
        house.clock.until_waiting(1)
        house.clock.advance(10)
        with pytest.raises(ModelStopping) as refusal:
            lease(house)
        assert refusal.value.retry_after_s == 20.0
        open_lease.release()
        stopping.result(HANG_S)

    def test_stopping_a_stopped_model(self, house: House) -> None:
        """A stop of a model at rest is no error and starts nothing."""
        house.supervisor.stop("tiny")
        assert house.backend.calls == []

    def test_stopping_a_container_run_by_hand(self, house: House) -> None:
        """A container that was not adopted yet is stopped, too."""
        house.backend.containers["by-hand"] = make_container("tiny", id="by-hand")
        house.supervisor.stop("tiny")
        assert house.backend.calls == ["stop by-hand"]

    def test_a_recreated_container_is_stopped(self, house: House) -> None:
        """A stop ends the container that serves now, even if a user has just replaced it."""
        lease(house).release()
        house.backend.containers = {"new": make_container("tiny", id="new")}
        house.supervisor.stop("tiny")
        assert not any(c.running for c in house.backend.find_all())

    def test_nothing_starts_while_files_are_deleted(self, house: House) -> None:
        """During a deletion requests and stops are refused, so that no container meets half its files."""
        house.backend.prepared_models = {"tiny"}
        is_reached, go_on = threading.Event(), threading.Event()

        def slow(model_id: str) -> int:
            is_reached.set()
            assert go_on.wait(HANG_S)
            return 1

        house.backend.delete_files = slow  # type: ignore[method-assign]
        deleting = house.later(house.supervisor.delete_files, "tiny")
        assert is_reached.wait(HANG_S)
        for call in (lease, lambda h: h.supervisor.stop("tiny")):
            with pytest.raises(ModelStopping):
                call(house)
        go_on.set()
        deleting.result(HANG_S)

    def test_a_failed_stop_keeps_the_model(self, house: House) -> None:
        """If Docker is away a stop says so, and the model goes on serving."""
        lease(house).release()
        house.backend.stop_error = DockerUnavailable("away")
        with pytest.raises(DockerUnavailable):
            house.supervisor.stop("tiny")
        assert house.state() is State.READY
        lease(house).release()

    def test_files_of_a_model_in_use_stay(self, house: House) -> None:
        """Only files of a model at rest are deleted; after that it is absent."""
        house.backend.prepared_models = {"tiny"}
        lease(house).release()
        with pytest.raises(ModelBusy):
            house.supervisor.delete_files("tiny")
        house.supervisor.stop("tiny")
        assert house.supervisor.delete_files("tiny") == 123
        assert house.state() is State.ABSENT
