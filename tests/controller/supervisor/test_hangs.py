"""Models that hang: found by their silence, told from those that compute and those that are paused."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import datetime, timedelta, timezone

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


class Watched:
    """A ready model with a lease out, a watch, and what was cut."""

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
def watched(house: House) -> Watched:
    return Watched(house)


def test_a_hung_model_is_ended(house: House, watched: Watched) -> None:
    """What answers nothing and computes nothing is cut with 504, killed by its id, and started by the next request."""
    watched.watch.look()
    until(lambda: house.state() is State.STOPPED)
    ((container_id, cause),) = watched.cut
    assert (container_id, cause.status, cause.code) == ("tiny-1", 504, "upstream_timeout")
    assert house.backend.calls == ["up tiny", "stop tiny-1"]
    watched.lease.release()
    assert lease(house).container_id == "tiny-2"


def test_models_that_hang_are_asked_at_once(house: House, watched: Watched) -> None:
    """However many are silent, the look takes as long as for one."""
    house.supervisor.acquire("other")
    together = threading.Barrier(2)

    def probe(_port: int, _path: str) -> Readiness:
        together.wait(HANG_S)
        return SILENT

    watched.watch._probe = probe
    watched.watch.look()
    until(lambda: {"tiny-1", "other-2"} == {container_id for container_id, _ in watched.cut})


def test_one_that_hangs_while_it_makes_room_is_ended(house: House, watched: Watched) -> None:
    """What is in flight keeps a model that is to leave its memory to another: it may not do so for ever."""
    house.backend.budget = Amount(memory_bytes=1)
    waiting = house.later(house.supervisor.acquire, "other")
    house.clock.until_waiting(2)
    house.clock.advance(10)
    until(lambda: house.state() is State.DRAINING)
    watched.watch.look()
    until(lambda: watched.cut != [])
    watched.lease.release()
    waiting.result(HANG_S).release()


@pytest.mark.parametrize(
    "answer", [Readiness(ready=True), Readiness(ready=False, phase="loading")], ids=["ready", "503"]
)
@pytest.mark.parametrize("before", [0, 1])
def test_an_answer_clears_it(house: House, watched: Watched, answer: Readiness, before: int) -> None:
    """Any answer at all is no hang, and one missed answer is none either."""
    watched.answers = [*[SILENT] * before, answer]
    watched.examine(house)
    assert watched.cut == []
    assert house.state() is State.READY


def test_a_busy_model_is_not_hung(house: House, watched: Watched) -> None:
    """A model that uses the processor is left alone, however long its server has no time to answer."""

    def busy(container_ids: list[str]) -> dict[str, Usage]:
        return {i: Usage(cpu_percent=95.0, memory_bytes=1) for i in container_ids}

    house.backend.usage = busy  # type: ignore[method-assign]
    watched.examine(house)
    assert watched.cut == []
    assert house.backend.calls == ["up tiny"]


@pytest.mark.parametrize("answer", [Readiness(ready=False, is_refused=True), Readiness(ready=False, is_broken=True)])
def test_a_server_that_listens_no_more_is_ended(house: House, watched: Watched, answer: Readiness) -> None:
    """A container may outlive the server in it, however busy: after three looks it is ended."""
    watched.answers = [answer, answer]
    busy = Usage(cpu_percent=95.0, memory_bytes=1)
    house.backend.usage = lambda container_ids: dict.fromkeys(container_ids, busy)  # type: ignore[method-assign]
    watched.examine(house)
    assert house.backend.calls == ["up tiny", "stop tiny-1"]
    assert "did not listen on its port any more" in watched.cut[0][1].message


def test_one_that_was_restarted_by_hand_is_not_ended(house: House, watched: Watched) -> None:
    """It listens no more because it loads its model anew."""
    begun = datetime(2026, 1, 1, tzinfo=timezone.utc)
    seen = replace(house.backend.containers["tiny-1"], started_at=begun)
    house.backend.containers["tiny-1"] = replace(seen, started_at=begun + timedelta(seconds=1))
    watched.watch.examine("tiny", seen)
    assert watched.cut == []
    assert house.backend.calls == ["up tiny"]


def test_a_hang_is_a_failure_of_the_model(house: House, watched: Watched) -> None:
    """It is told with a card, counted as a death, and a second one soon after backs off; it is nobody's stop."""
    house.backend.ending = lambda container_id: Ending(is_known=True, was_ordered=True)  # type: ignore[method-assign]
    watched.examine(house)
    error = house.supervisor.view("tiny").error
    assert error is not None
    assert "tiny hung" in error.message
    assert error.details["log"] == ["the last line"]
    lease(house).release()
    watched.watch.examine("tiny", house.backend.containers["tiny-2"])
    with pytest.raises(BackingOff, match="hung"):
        lease(house)
    house.clock.advance(10)
    lease(house).release()
    house.backend.end("tiny-3", exit_code=137)
    house.supervisor.adopt("tiny")
    assert house.supervisor.view("tiny").error is None


def test_a_paused_model_is_not_ended(house: House, watched: Watched) -> None:
    """Silence for a pause by hand costs the requests, told of the way on, and never the container."""
    container = house.backend.containers["tiny-1"]
    house.backend.containers["tiny-1"] = replace(container, status="paused")
    watched.watch.examine("tiny", container)
    ((_, cause),) = watched.cut
    assert "docker unpause test-tiny-1" in cause.message
    assert house.backend.calls == ["up tiny"]
    assert house.state() is State.PAUSED


def test_a_short_pause_costs_nothing(house: House, watched: Watched) -> None:
    """Requests in flight are cut when the pause has lasted for its grace, not before."""
    house.backend.containers["tiny-1"] = replace(house.backend.containers["tiny-1"], status="paused")
    house.supervisor.adopt("tiny")
    watched.watch.look()
    house.clock.advance(PAUSE_GRACE_S - 1)
    watched.watch.look()
    assert watched.cut == []
    house.clock.advance(1)
    watched.watch.look()
    assert [container_id for container_id, _ in watched.cut] == ["tiny-1"]


def test_a_second_pause_has_its_own_grace(house: House, watched: Watched) -> None:
    """The grace counts from this pause, not from one that is over."""
    running = house.backend.containers["tiny-1"]
    for _ in range(2):
        house.backend.containers["tiny-1"] = replace(running, status="paused")
        house.supervisor.adopt("tiny")
        watched.watch.look()
        house.backend.containers["tiny-1"] = running
        house.supervisor.adopt("tiny")
        house.settled()
        watched.answers = [Readiness(ready=True)]
        watched.watch.look()
        house.clock.advance(PAUSE_GRACE_S)
    assert watched.cut == []
