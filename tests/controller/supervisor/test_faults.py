"""Faults of our own: no request and no model stays stuck."""

from __future__ import annotations

import pytest

from controller.docker.container import Container
from controller.errors import (
    DockerUnavailable,
    StartFailed,
)
from controller.supervisor import State
from tests.controller.supervisor.house import House, error_of, lease
from tests.fakes import HANG_S


class TestFaultsOfOurs:
    def test_a_fault_while_stopping_leaves_the_model_serving(self, house: House) -> None:
        """An unexpected error in an idle stop leaves the model serving, not draining for ever."""
        lease(house).release()
        house.clock.advance(900)
        find = house.backend.find

        def no_descriptors(model_id: str) -> Container | None:
            raise OSError(24, "Too many open files")

        house.backend.find = no_descriptors  # type: ignore[method-assign]
        with pytest.raises(OSError, match="Too many open files"):
            house.supervisor.reap()
        house.backend.find = find  # type: ignore[method-assign]
        assert house.state() is State.READY
        lease(house).release()

    def test_a_failing_idle_stop_is_not_hurried(self, house: House) -> None:
        """A stop that fails is tried again 10 s later, not at once and for ever."""
        lease(house).release()
        house.clock.advance(900)
        house.backend.stop_error = DockerUnavailable("away")
        house.supervisor.reap()
        house.supervisor.reap()
        assert house.backend.calls.count("stop tiny-1") == 1
        house.clock.advance(10)
        house.supervisor.reap()
        assert house.backend.calls.count("stop tiny-1") == 2

    def test_a_failing_idle_stop_leaves_no_moment(self, house: House, monkeypatch: pytest.MonkeyPatch) -> None:
        """From the moment it serves again, another model's start cannot evict it either."""
        lease(house).release()
        house.clock.advance(900)
        slot = house.slot()
        stop_fails, respites = slot.stop_fails, []

        def note_respite(*, resting: State, is_gone: bool) -> bool:
            respites.append(slot.stop_not_before - house.clock.monotonic())
            return stop_fails(resting=resting, is_gone=is_gone)

        monkeypatch.setattr(slot, "stop_fails", note_respite)
        house.backend.stop_error = DockerUnavailable("away")
        house.supervisor.reap()
        assert [10.0] == respites

    def test_unreadable_files_leave_no_start_unfinished(self, house: House) -> None:
        """A start that cannot look at the model's files at its end still frees its waiters, and a stop works."""
        house.backend.up_error = StartFailed("no")

        def unreadable(model_id: str) -> bool:
            raise PermissionError

        house.backend.up_gate.clear()
        request = house.later(lease, house)
        assert house.backend.up_reached.wait(HANG_S)
        house.backend.is_prepared = unreadable  # type: ignore[method-assign]
        house.backend.up_gate.set()
        assert error_of(request).message == "no"
        house.supervisor.stop("tiny")
        assert house.state() is State.ABSENT

    def test_waiters_get_errors_of_their_own(self, house: House) -> None:
        """Each waiter raises its own exception: a shared one would keep every request's memory alive."""
        house.backend.up_gate.clear()
        house.backend.up_error = StartFailed("no such image", details={"exit_code": 1})
        requests = [house.later(lease, house) for _ in range(3)]
        house.clock.until_waiting(3)
        house.backend.up_gate.set()
        errors = [error_of(request) for request in requests]
        assert len({id(error) for error in errors}) == 3
        assert all(error.details["exit_code"] == 1 for error in errors)
        error = house.supervisor.view("tiny").error
        assert error is not None
        assert error.__traceback__ is None
