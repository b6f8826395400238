"""Stops that fail half-way: what had served is gone, or stays; nothing is lost of what was wanted next."""

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
    """Of the next looks for the model's container these fail, the first one being 1."""
    find, looks = house.backend.find, count(1)

    def failing(model_id: str) -> Container | None:
        if next(looks) in numbers:
            raise AWAY
        return find(model_id)

    house.backend.find = failing  # type: ignore[method-assign]


def remake(house: House) -> None:
    """A reload with another entry for the model."""
    house.specs["tiny"] = replace(house.specs["tiny"], max_wait_s=house.specs["tiny"].max_wait_s + 1)
    house.supervisor.change(house.specs, remade={"tiny"})


def remaking(house: House) -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "remake tiny"]


def let_time_pass(house: House) -> None:
    """Until whoever tries again has come to an end."""

    def is_over() -> bool:
        house.clock.advance(10)
        return not remaking(house)

    until(is_over)


class TestWhatServedIsGone:
    """Docker goes away between the end of the container and the look for others in its place."""

    def test_the_next_request_starts_anew(self, house: House) -> None:
        lease(house).release()
        fail_looks(house, 2)
        with pytest.raises(DockerUnavailable):
            house.supervisor.stop("tiny")
        assert house.state() is State.STOPPED
        assert lease(house).container_id == "tiny-2"

    def test_also_when_another_had_taken_its_place(self, house: House) -> None:
        """The stop ended one that was made by hand: the one before it is no more given to anybody."""
        lease(house).release()
        house.backend.containers = {"new": make_container("tiny", id="new")}
        fail_looks(house, 2)
        with pytest.raises(DockerUnavailable):
            house.supervisor.stop("tiny")
        assert lease(house).container_id == "tiny-2"

    def test_a_changed_model_is_started_all_the_same(self, house: House) -> None:
        """A reload has a serving model made anew: nobody has to ask for it when Docker is back, after its start and
        another stop have failed, too."""
        lease(house).release()
        fail_looks(house, 2, 3, 4)
        remake(house)
        let_time_pass(house)
        assert house.settled() is State.READY
        assert house.backend.calls == ["up tiny", "stop tiny-1", "up tiny"]

    def test_a_start_that_was_asked_for_meanwhile_is_begun(self, house: House) -> None:
        """`POST /run` during an idle stop was told that the model drains, and has its start after it."""
        lease(house).release()
        house.clock.advance(901)
        house.backend.stop_gate.clear()
        fail_looks(house, 2)
        stopping = house.later(house.supervisor.reap)
        assert house.backend.stop_reached.wait(HANG_S)
        assert house.supervisor.run("tiny", wait=False).state is State.DRAINING
        house.backend.stop_gate.set()
        stopping.result(HANG_S)
        assert house.settled() is State.READY
        assert house.backend.calls == ["up tiny", "stop tiny-1", "up tiny"]


class TestWhatServedStays:
    def test_a_changed_model_that_was_starting_is_tried_again(self, patient_house: House) -> None:
        """Its superseded start leaves a container that Docker does not stop at first: whoever waits is served all the
        same, and it is made anew in the end."""
        house = patient_house
        house.backend.ready = False
        asked = house.later(house.supervisor.acquire, "tiny", max_wait_s=1e12)
        until(lambda: (attempt := house.supervisor._slots["tiny"].attempt) is not None and bool(attempt.container_id))
        stop = house.backend.stop
        failures: list[str] = []

        def failing(container_id: str, *, grace_s: int) -> None:
            """By the superseded start itself, and by the reload."""
            if len(failures) < 2:
                failures.append(container_id)
                raise DockerTimeout("it hangs")
            stop(container_id, grace_s=grace_s)

        house.backend.stop = failing  # type: ignore[method-assign]
        remake(house)
        until(lambda: failures == ["tiny-1", "tiny-1"])
        house.backend.ready = True
        asked.result(HANG_S).release()
        let_time_pass(house)
        assert house.settled() is State.READY
        assert lease(house).container_id == "tiny-2"

    def test_so_is_one_of_which_something_was_left(self, house: House) -> None:
        """A start that Docker failed had left a container of the old entry, which is ended and not adopted."""
        house.backend.up_error = DockerTimeout("no answer")
        assert isinstance(error_of(house.later(lease, house)), DockerTimeout)
        house.backend.up_error = None
        house.backend.containers["left"] = make_container("tiny", id="left")
        remake(house)
        until(lambda: not remaking(house))
        house.supervisor.adopt()
        assert house.state() is State.STOPPED
        assert house.backend.calls == ["up tiny", "stop left"]

    def test_two_changes_lose_no_start(self, house: House) -> None:
        """The first one's stop fails while the second one waits to stop the same model, which is started anew."""
        lease(house).release()
        stop, failed = house.backend.stop, threading.Event()

        def once(container_id: str, *, grace_s: int) -> None:
            if not failed.is_set():
                until(lambda: len(remaking(house)) == 2)
                failed.set()
                raise DockerError("no")
            stop(container_id, grace_s=grace_s)

        house.backend.stop = once  # type: ignore[method-assign]
        remake(house)
        remake(house)
        let_time_pass(house)
        assert house.settled() is State.READY
        assert lease(house).container_id == "tiny-2"

    def test_a_start_that_is_not_needed_any_more_is_forgotten(self, house: House) -> None:
        """`POST /run` while a model makes room for another, which then gives up: its next idle stop is one."""
        house.backend.budget = Amount(memory_bytes=1)
        house.backend.need = {"tiny": Amount(memory_bytes=1), "other": Amount(memory_bytes=1)}
        held = lease(house)
        waiting = house.later(house.supervisor.acquire, "other", max_wait_s=20)
        house.clock.until_waiting(2)
        house.clock.advance(10)
        until(lambda: house.state() is State.DRAINING)
        house.supervisor.run("tiny", wait=False)
        house.clock.advance(10)
        assert isinstance(error_of(waiting), DeadlineExceeded)
        until(lambda: house.state() is State.READY)
        held.release()
        house.clock.advance(901)
        house.supervisor.reap()
        assert house.settled() is State.STOPPED
        assert house.backend.calls == ["up tiny", "stop tiny-1"]
