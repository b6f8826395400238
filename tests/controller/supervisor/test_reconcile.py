"""Docker is the truth: running containers are adopted, and ended ones released."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from controller.docker.container import Container
from controller.errors import DockerError, ModelPaused
from controller.supervisor import State
from tests.controller.supervisor.house import House, error_of, lease
from tests.fakes import HANG_S, make_container


class TestDockerIsTheTruth:
    def test_a_running_model_is_adopted_at_boot(self, house: House) -> None:
        """A model that outlived the controller serves again without an `up`."""
        house.backend.containers["old"] = make_container("tiny", id="old", port=9077)
        house.supervisor.adopt()
        assert house.state_after_start() is State.READY
        open_lease = lease(house)
        assert (open_lease.container_id, open_lease.port) == ("old", 9077)
        assert house.backend.calls == []

    def test_a_start_adopts_a_container_started_by_hand(self, house: House) -> None:
        """A request for a model that a user has just started does not start a second one."""
        house.backend.containers["by-hand"] = make_container("tiny", id="by-hand")
        assert lease(house).container_id == "by-hand"
        assert house.backend.calls == []

    def test_a_stop_by_hand_is_noticed(self, house: House) -> None:
        """If a container ended and we did not stop it, the model is stopped, and the next request starts it."""
        lease(house).release()
        house.backend.end("tiny-1", exit_code=0)
        house.supervisor.adopt()
        assert house.state() is State.STOPPED
        assert lease(house).container_id == "tiny-2"

    def test_a_recreation_by_hand_is_followed(self, house: House) -> None:
        """A container that a user has recreated takes the old one's place."""
        lease(house).release()
        house.backend.containers = {"new": make_container("tiny", id="new", port=9055)}
        house.supervisor.adopt()
        house.state_after_start()
        assert lease(house).port == 9055

    def test_an_old_look_does_not_undo_a_newer_start(self, house: House) -> None:
        """What Docker said before a start finished is not believed after it."""
        look, old = house.backend.find_all, house.backend.find_all()

        def look_and_start_meanwhile() -> Any:
            house.backend.find_all = look  # type: ignore[method-assign]
            lease(house).release()
            return old

        house.backend.find_all = look_and_start_meanwhile  # type: ignore[method-assign]
        house.supervisor.adopt()
        assert house.state() is State.READY

    def test_a_pause_by_hand_is_respected(self, house: House) -> None:
        """A paused container is left as it is, and the error of a request names the command that unpauses it."""
        house.backend.containers["p"] = make_container("tiny", id="p", status="paused")
        house.supervisor.adopt()
        assert house.state_after_start() is State.PAUSED
        with pytest.raises(ModelPaused, match="docker unpause test-tiny-1"):
            lease(house)
        house.supervisor.run("tiny", wait=False)
        house.supervisor.reap()
        assert house.backend.calls == []

    def test_a_pause_after_an_unpause_is_over(self, house: House) -> None:
        """A ready model that is paused serves no request, and serves again after `unpause`, without an `up`."""
        lease(house).release()
        running = house.backend.containers["tiny-1"]
        house.backend.containers["tiny-1"] = replace(running, status="paused")
        house.supervisor.adopt("tiny")
        assert house.state() is State.PAUSED
        house.backend.containers["tiny-1"] = running
        house.supervisor.adopt("tiny")
        assert house.state_after_start() is State.READY
        assert lease(house).container_id == "tiny-1"
        assert house.backend.calls == ["up tiny"]

    @pytest.mark.parametrize("a_request_waits", [False, True])
    def test_a_container_that_ends_before_its_adoption_is_not_started(
        self, house: House, a_request_waits: bool
    ) -> None:
        """`docker compose up` and `stop` by hand within one look start nothing of ours, unless a request waits."""
        house.backend.containers["by-hand"] = make_container("tiny", id="by-hand")
        find, has_looked, gate = house.backend.find, threading.Event(), threading.Event()

        def slow(model_id: str) -> Container | None:
            if threading.current_thread().name.startswith("start") and not has_looked.is_set():
                has_looked.set()
                assert gate.wait(HANG_S)
            return find(model_id)

        house.backend.find = slow  # type: ignore[method-assign]
        house.supervisor.adopt()
        assert has_looked.wait(HANG_S)
        asking = [house.later(lease, house)] if a_request_waits else []
        house.clock.until_waiting(len(asking))
        house.backend.end("by-hand", exit_code=0)
        gate.set()
        for future in asking:
            future.result(HANG_S).release()
        assert house.state_after_start() is (State.READY if a_request_waits else State.STOPPED)
        assert house.backend.calls == ["up tiny"] * len(asking)
        assert house.supervisor.view("tiny").error is None

    def test_a_pause_during_a_start_is_reported(self, house: House) -> None:
        """A start that meets a pause which we have not seen ends with the command that unpauses it."""
        house.backend.containers["p"] = make_container("tiny", id="p", status="paused")
        house.backend.ready = False
        with pytest.raises(ModelPaused, match="docker unpause test-tiny-1"):
            lease(house)
        house.supervisor.adopt()
        assert house.state() is State.PAUSED

    def test_a_paused_model_that_ends_is_stopped(self, house: House) -> None:
        """A user may stop what they have paused; the next request starts it."""
        lease(house).release()
        house.backend.containers["tiny-1"] = replace(house.backend.containers["tiny-1"], status="paused")
        house.supervisor.adopt()
        assert house.state() is State.PAUSED
        house.backend.end("tiny-1", exit_code=0)
        house.supervisor.adopt()
        assert house.state() is State.STOPPED
        assert lease(house).container_id == "tiny-2"

    def test_a_paused_model_can_be_stopped(self, house: House) -> None:
        """A user may stop it, although the controller never would."""
        house.backend.containers["p"] = make_container("tiny", id="p", status="paused")
        house.supervisor.adopt()
        house.supervisor.stop("tiny")
        assert house.state() is State.STOPPED
        assert house.backend.calls == ["stop p"]

    def test_a_paused_model_that_cannot_be_stopped_stays_paused(self, house: House) -> None:
        """After a stop that Docker failed, a paused model gets no requests, which would hang."""
        house.backend.containers["p"] = make_container("tiny", id="p", status="paused")
        house.supervisor.adopt()
        house.backend.stop_error = DockerError("no")
        assert error_of(house.later(house.supervisor.stop, "tiny")).message == "no"
        assert house.state() is State.PAUSED
        with pytest.raises(ModelPaused):
            lease(house)

    def test_a_restart_by_hand_is_waited_for(self, patient_house: House) -> None:
        """A container that was restarted loads its model again, and gets no request before it is ready."""
        house = patient_house
        started_at = datetime(2026, 1, 1, tzinfo=UTC)
        house.backend.after_up = lambda container: replace(container, started_at=started_at)
        lease(house).release()
        house.supervisor.adopt()
        assert house.state_after_start() is State.READY
        house.backend.ready = False
        house.backend.containers["tiny-1"] = replace(
            house.backend.containers["tiny-1"], started_at=started_at + timedelta(seconds=9)
        )
        house.supervisor.adopt()
        assert house.state() is State.STARTING
        house.backend.ready = True
        assert house.state_after_start() is State.READY
        assert house.backend.calls == ["up tiny"]

    def test_drift_and_usage_are_shown(self, house: House) -> None:
        """A container that differs from what the Compose files describe now is shown as drifted, and left alone."""
        lease(house).release()
        house.backend.containers["tiny-1"] = replace(house.backend.containers["tiny-1"], config_hash="other")
        house.backend.drifted = lambda containers: {"tiny"}  # type: ignore[method-assign]
        house.supervisor.measure()
        view = house.supervisor.view("tiny")
        assert view.drifted
        assert view.usage is not None
        assert view.state is State.READY
