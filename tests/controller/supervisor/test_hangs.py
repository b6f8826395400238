"""Models that hang: found by their silence, unless they compute or are paused."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from controller.docker.container import Usage
from controller.docker.endings import Ending
from controller.errors import BackingOff, UpstreamError
from controller.supervisor import HangWatch, Lease, State
from controller.supervisor.backend import Amount, Readiness
from controller.supervisor.watching.hangs import PAUSE_GRACE_S
from tests.controller.supervisor.house import House, lease, until
from tests.fakes import HANG_S

SILENT = Readiness(ready=False, is_silent=True)


class WatchedModel:
    """A ready model with a lease out, its watch, and the requests that were cut."""

    def __init__(self, house: House) -> None:
        self.lease: Lease = lease(house)
        self.answers: list[Readiness] = []
        self.cut: list[tuple[str, UpstreamError]] = []
        self.watch = HangWatch(
            house.supervisor,
            house.backend,
            lambda port, path: self.answers.pop(0) if self.answers else SILENT,
            lambda container_id, cause: self.cut.append((container_id, cause)),
            clock=house.clock,
        )

    def examine(self, house: House) -> None:
        self.watch.examine("tiny", house.backend.containers["tiny-1"])


@pytest.fixture
def model(house: House) -> WatchedModel:
    return WatchedModel(house)


def test_a_hung_model_is_ended(house: House, model: WatchedModel) -> None:
    """A model that neither answers nor computes is cut with 504, killed by its id, and started by the next request."""
    model.watch.look()
    until(lambda: house.state() is State.STOPPED)
    ((container_id, cause),) = model.cut
    assert (container_id, cause.status, cause.code) == ("tiny-1", 504, "upstream_timeout")
    assert house.backend.calls == ["up tiny", "stop tiny-1"]
    model.lease.release()
    assert lease(house).container_id == "tiny-2"


def test_models_that_hang_are_asked_at_once(house: House, model: WatchedModel) -> None:
    """However many are silent, the look takes as long as for one."""
    house.supervisor.acquire("other")
    together = threading.Barrier(2)

    def probe(_port: int, _path: str) -> Readiness:
        together.wait(HANG_S)
        return SILENT

    model.watch._probe = probe
    model.watch.look()
    until(lambda: {"tiny-1", "other-2"} == {container_id for container_id, _ in model.cut})


def test_one_that_hangs_while_it_makes_room_is_ended(house: House, model: WatchedModel) -> None:
    """Requests in flight delay a model that makes room for another one, but not for ever."""
    house.backend.budget = Amount(memory_bytes=1)
    waiting = house.later(house.supervisor.acquire, "other")
    house.clock.until_waiting(2)
    house.clock.advance(10)
    until(lambda: house.state() is State.DRAINING)
    model.watch.look()
    until(lambda: model.cut != [])
    model.lease.release()
    waiting.result(HANG_S).release()


@pytest.mark.parametrize(
    "answer", [Readiness(ready=True), Readiness(ready=False, phase="loading")], ids=["ready", "503"]
)
@pytest.mark.parametrize("before", [0, 1])
def test_an_answer_is_no_hang(house: House, model: WatchedModel, answer: Readiness, before: int) -> None:
    """Any answer will do, and one missed answer is no hang either."""
    model.answers = [*[SILENT] * before, answer]
    model.examine(house)
    assert model.cut == []
    assert house.state() is State.READY


def test_a_busy_model_is_not_hung(house: House, model: WatchedModel) -> None:
    """A model that uses the processor is left alone, however long its server has no time to answer."""

    def busy(container_ids: list[str]) -> dict[str, Usage]:
        return {i: Usage(cpu_percent=95.0, memory_bytes=1) for i in container_ids}

    house.backend.usage = busy  # type: ignore[method-assign]
    model.examine(house)
    assert model.cut == []
    assert house.backend.calls == ["up tiny"]


@pytest.mark.parametrize("answer", [Readiness(ready=False, is_refused=True), Readiness(ready=False, is_broken=True)])
def test_a_server_that_does_not_listen_is_ended(house: House, model: WatchedModel, answer: Readiness) -> None:
    """A container may outlive the server in it, however busy: after three looks it is ended."""
    model.answers = [answer, answer]
    busy = Usage(cpu_percent=95.0, memory_bytes=1)
    house.backend.usage = lambda container_ids: dict.fromkeys(container_ids, busy)  # type: ignore[method-assign]
    model.examine(house)
    assert house.backend.calls == ["up tiny", "stop tiny-1"]
    assert "did not listen on its port any more" in model.cut[0][1].message


def test_one_that_was_restarted_by_hand_is_not_ended(house: House, model: WatchedModel) -> None:
    """It does not listen because it loads its model again."""
    started_at = datetime(2026, 1, 1, tzinfo=UTC)
    old = replace(house.backend.containers["tiny-1"], started_at=started_at)
    house.backend.containers["tiny-1"] = replace(old, started_at=started_at + timedelta(seconds=1))
    model.watch.examine("tiny", old)
    assert model.cut == []
    assert house.backend.calls == ["up tiny"]


def test_a_hang_is_a_failure_of_the_model(house: House, model: WatchedModel) -> None:
    """It has a card, counts as a death and not as a stop, and a second one soon after backs off."""
    house.backend.ending = lambda container_id: Ending(is_known=True, was_ordered=True)  # type: ignore[method-assign]
    model.examine(house)
    error = house.supervisor.view("tiny").error
    assert error is not None
    assert "tiny hung" in error.message
    assert error.details["log"] == ["the last line"]
    lease(house).release()
    model.watch.examine("tiny", house.backend.containers["tiny-2"])
    with pytest.raises(BackingOff, match="hung"):
        lease(house)
    house.clock.advance(10)
    lease(house).release()
    house.backend.end("tiny-3", exit_code=137)
    house.supervisor.adopt("tiny")
    assert house.supervisor.view("tiny").error is None


def test_a_paused_model_is_not_ended(house: House, model: WatchedModel) -> None:
    """Silence because of a pause by hand cuts the requests, with the command that unpauses, and never the container."""
    container = house.backend.containers["tiny-1"]
    house.backend.containers["tiny-1"] = replace(container, status="paused")
    model.watch.examine("tiny", container)
    ((_, cause),) = model.cut
    assert "docker unpause test-tiny-1" in cause.message
    assert house.backend.calls == ["up tiny"]
    assert house.state() is State.PAUSED


def test_a_short_pause_costs_nothing(house: House, model: WatchedModel) -> None:
    """Requests in flight are cut once the pause has lasted for its grace, not before."""
    house.backend.containers["tiny-1"] = replace(house.backend.containers["tiny-1"], status="paused")
    house.supervisor.adopt("tiny")
    model.watch.look()
    house.clock.advance(PAUSE_GRACE_S - 1)
    model.watch.look()
    assert model.cut == []
    house.clock.advance(1)
    model.watch.look()
    assert [container_id for container_id, _ in model.cut] == ["tiny-1"]


def test_a_second_pause_has_its_own_grace(house: House, model: WatchedModel) -> None:
    """The grace counts from this pause, not from one that is over."""
    running = house.backend.containers["tiny-1"]
    for _ in range(2):
        house.backend.containers["tiny-1"] = replace(running, status="paused")
        house.supervisor.adopt("tiny")
        model.watch.look()
        house.backend.containers["tiny-1"] = running
        house.supervisor.adopt("tiny")
        house.state_after_start()
        model.answers = [Readiness(ready=True)]
        model.watch.look()
        house.clock.advance(PAUSE_GRACE_S)
    assert model.cut == []
