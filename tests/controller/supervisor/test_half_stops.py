"""Stops that fail half-way: the container is gone, or stays; no start that has to follow is lost."""

from __future__ import annotations

import threading
from dataclasses import replace
from itertools import count

import pytest

from controller.docker.container import Container
from controller.errors import DeadlineExceeded, DockerError, DockerTimeout, DockerUnavailable
from controller.supervisor import State
from controller.supervisor.backend import Amount
from tests.controller.supervisor.house import House, error_of, lease, until
from tests.fakes import HANG_S, make_container

AWAY = DockerUnavailable("away")


def fail_looks(house: House, *numbers: int) -> None:
    """Let these of the next looks for the model's container fail, the first one being 1."""
    find, looks = house.backend.find, count(1)

    def failing(model_id: str) -> Container | None:
        if next(looks) in numbers:
            raise AWAY
        return find(model_id)

    house.backend.find = failing  # type: ignore[method-assign]


def remake(house: House) -> None:
    """Reload with another entry for the model."""
    house.specs["tiny"] = replace(house.specs["tiny"], max_wait_s=house.specs["tiny"].max_wait_s + 1)
    house.supervisor.change(house.specs, remade={"tiny"})


def remake_threads(house: House) -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "remake tiny"]


def let_time_pass(house: House) -> None:
    """Let time pass until the thread that tries again has ended."""

    def is_over() -> bool:
        house.clock.advance(10)
        return not remake_threads(house)

    until(is_over)


class TestTheContainerIsGone:
    """Docker goes away between the end of the container and the look for others in its place."""

    def test_the_next_request_starts_the_model(self, house: House) -> None:
        lease(house).release()
        fail_looks(house, 2)
        with pytest.raises(DockerUnavailable):
            house.supervisor.stop("tiny")
        assert house.state() is State.STOPPED
        assert lease(house).container_id == "tiny-2"

    def test_also_if_another_one_had_replaced_it(self, house: House) -> None:
        """The stop ended a container made by hand: no request gets the one before it."""
        lease(house).release()
        house.backend.containers = {"new": make_container("tiny", id="new")}
        fail_looks(house, 2)
        with pytest.raises(DockerUnavailable):
            house.supervisor.stop("tiny")
        assert lease(house).container_id == "tiny-2"

    def test_a_changed_model_is_started_all_the_same(self, house: House) -> None:
        """A reload replaces a serving model: it needs no request when Docker is back, even after its start and another
        stop have failed."""
        lease(house).release()
        fail_looks(house, 2, 3, 4)
        remake(house)
        let_time_pass(house)
        assert house.state_after_start() is State.READY
        assert house.backend.calls == ["up tiny", "stop tiny-1", "up tiny"]

    def test_a_run_meanwhile_starts_the_model(self, house: House) -> None:
        """`POST /run` during an idle stop shows `draining`, and the model starts after that."""
        lease(house).release()
        house.clock.advance(901)
        house.backend.stop_gate.clear()
        fail_looks(house, 2)
        stopping = house.later(house.supervisor.reap)
        assert house.backend.stop_reached.wait(HANG_S)
        assert house.supervisor.run("tiny", wait=False).state is State.DRAINING
        house.backend.stop_gate.set()
        stopping.result(HANG_S)
        assert house.state_after_start() is State.READY
        assert house.backend.calls == ["up tiny", "stop tiny-1", "up tiny"]


class TestTheContainerStays:
    def test_a_changed_model_that_was_starting_is_tried_again(self, patient_house: House) -> None:
        """Its superseded start leaves a container that Docker does not stop at first: requests that wait are served all
        the same, and it is replaced in the end."""
        house = patient_house
        house.backend.ready = False
        request = house.later(house.supervisor.acquire, "tiny", max_wait_s=1e12)
        until(lambda: (attempt := house.slot().attempt) is not None and bool(attempt.container_id))
        stop = house.backend.stop
        failures: list[str] = []

        def failing(container_id: str, *, grace_s: int) -> None:
            """Fail for the superseded start itself, and for the reload."""
            if len(failures) < 2:
                failures.append(container_id)
                raise DockerTimeout("it hangs")
            stop(container_id, grace_s=grace_s)

        house.backend.stop = failing  # type: ignore[method-assign]
        remake(house)
        until(lambda: failures == ["tiny-1", "tiny-1"])
        house.backend.ready = True
        request.result(HANG_S).release()
        let_time_pass(house)
        assert house.state_after_start() is State.READY
        assert lease(house).container_id == "tiny-2"

    def test_a_container_that_a_failed_start_left_is_stopped(self, house: House) -> None:
        """A start that Docker failed left a container of the old entry, which is stopped and not adopted."""
        house.backend.up_error = DockerTimeout("no answer")
        assert isinstance(error_of(house.later(lease, house)), DockerTimeout)
        house.backend.up_error = None
        house.backend.containers["left"] = make_container("tiny", id="left")
        remake(house)
        until(lambda: not remake_threads(house))
        house.supervisor.adopt()
        assert house.state() is State.STOPPED
        assert house.backend.calls == ["up tiny", "stop left"]

    def test_two_changes_lose_no_start(self, house: House) -> None:
        """The first stop fails while the second one waits to stop the same model, which is started again."""
        lease(house).release()
        stop, failed = house.backend.stop, threading.Event()

        def once(container_id: str, *, grace_s: int) -> None:
            if not failed.is_set():
                until(lambda: len(remake_threads(house)) == 2)
                failed.set()
                raise DockerError("no")
            stop(container_id, grace_s=grace_s)

        house.backend.stop = once  # type: ignore[method-assign]
        remake(house)
        remake(house)
        let_time_pass(house)
        assert house.state_after_start() is State.READY
        assert lease(house).container_id == "tiny-2"

    def test_a_start_that_is_not_needed_any_more_is_forgotten(self, house: House) -> None:
        """A model makes room for another during `POST /run`; that one gives up: its next idle stop starts nothing."""
        house.backend.budget = Amount(memory_bytes=1)
        house.backend.need = {"tiny": Amount(memory_bytes=1), "other": Amount(memory_bytes=1)}
        open_lease = lease(house)
        waiting = house.later(house.supervisor.acquire, "other", max_wait_s=20)
        house.clock.until_waiting(2)
        house.clock.advance(10)
        until(lambda: house.state() is State.DRAINING)
        house.supervisor.run("tiny", wait=False)
        house.clock.advance(10)
        assert isinstance(error_of(waiting), DeadlineExceeded)
        until(lambda: house.state() is State.READY)
        open_lease.release()
        house.clock.advance(901)
        house.supervisor.reap()
        assert house.state_after_start() is State.STOPPED
        assert house.backend.calls == ["up tiny", "stop tiny-1"]
