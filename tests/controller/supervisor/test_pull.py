"""Pulls: what a start needs is made present in the background, once for all who want it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from controller.errors import Cancelled, ModelBusy, ModelStopping, SourceError, StartFailed
from controller.supervisor import CancelToken, Pull, State
from controller.supervisor.backend import OnProgress, PreparationProgress
from tests.controller.supervisor.house import House, error_of, lease, until
from tests.fakes import HANG_S

HALF = PreparationProgress(phase="downloading", fraction=0.5, done_bytes=50, total_bytes=100)


class Download:
    """A preparation that reports once and then waits for the test, or for a stop."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.go_on = threading.Event()
        self.error: Exception | None = None
        self.tell: OnProgress = lambda _: None

    def __call__(self, model_id: str, on_progress: Any, cancelled: Callable[[], bool]) -> None:
        self.tell = on_progress
        on_progress(HALF)
        self.reached.set()
        until(lambda: self.go_on.is_set() or cancelled())
        if cancelled():
            raise Cancelled("preparing was cancelled")
        if self.error is not None:
            raise self.error


@pytest.fixture
def absent(pool: ThreadPoolExecutor) -> House:
    """A house whose models have no files yet."""
    house = House(pool)
    house.backend.prepared = set()
    house.supervisor = house.boot()
    return house


@pytest.fixture
def download(absent: House) -> Download:
    absent.backend.on_prepare = slow = Download()
    return slow


def follow(pull: Pull) -> list[PreparationProgress]:
    """All that a pull tells, to its end."""
    told = [progress for progress in pull if progress is not None]
    assert pull.is_over
    return told


def test_a_pull_makes_present_and_starts_nothing(absent: House, download: Download) -> None:
    """A pull prepares and tells how far it is; then the model is stopped, and its start prepares nothing."""
    pull = absent.supervisor.pull("tiny")
    assert absent.state() is State.PREPARING
    assert next(pull) == HALF
    download.go_on.set()
    assert follow(pull) == []
    assert absent.settled() is State.STOPPED
    lease(absent).release()
    assert absent.backend.calls == ["prepare tiny", "up tiny"]


def test_pulls_share_one_preparation(absent: House, download: Download) -> None:
    """Two pulls at once prepare once; one that comes later has nothing to do."""
    pulls = [absent.supervisor.pull("tiny") for _ in range(2)]
    assert [next(pull) for pull in pulls] == [HALF, HALF]
    download.go_on.set()
    assert [follow(pull) for pull in pulls] == [[], []]
    assert absent.backend.calls == ["prepare tiny"]


def test_a_later_pull_looks_again(absent: House, download: Download) -> None:
    """A pull of what is here asks for it all the same: files may have been changed, or lost, behind our back."""
    download.go_on.set()
    for _ in range(2):
        follow(absent.supervisor.pull("tiny"))
        assert absent.settled() is State.STOPPED
    assert absent.backend.calls == ["prepare tiny", "prepare tiny"]


def test_a_request_during_a_pull_starts_the_model(absent: House, download: Download) -> None:
    """Who asks the model while it is pulled waits for the files, and gets it started."""
    absent.supervisor.pull("tiny")
    request = absent.later(lease, absent)
    absent.clock.until_waiting(1)
    download.go_on.set()
    request.result(HANG_S).release()
    assert absent.backend.calls == ["prepare tiny", "up tiny"]


def test_a_run_during_a_pull_is_kept_in_mind(absent: House, download: Download) -> None:
    """`run` without waiting, said during a pull, starts the model when its files are here."""
    absent.supervisor.pull("tiny")
    assert absent.supervisor.run("tiny", wait=False).state is State.PREPARING
    download.go_on.set()
    until(lambda: absent.state() is State.READY)


def test_a_pull_joins_a_start(absent: House, download: Download) -> None:
    """A pull of a model that is prepared for its start is over when its files are here, whatever the start does."""
    absent.backend.up_gate.clear()
    absent.backend.up_error = StartFailed("no such image")
    request = absent.later(lease, absent)
    assert download.reached.wait(HANG_S)
    pull = absent.supervisor.pull("tiny")
    download.go_on.set()
    assert absent.backend.up_reached.wait(HANG_S)
    assert pull.is_over
    absent.backend.up_gate.set()
    assert "no such image" == error_of(request).message
    assert follow(pull) == []
    assert absent.backend.calls == ["prepare tiny", "up tiny"]


def test_a_ready_model_has_nothing_to_pull(house: House) -> None:
    """A pull of a model that runs is over at once, and leaves it alone."""
    lease(house).release()
    assert house.supervisor.pull("tiny").is_over
    assert house.state() is State.READY


def test_a_failed_pull_says_why_and_can_be_repeated(absent: House, download: Download) -> None:
    """Who follows a pull that fails hears the reason, as does who waits for the model; the next pull tries again."""
    download.error = SourceError("no network")
    pull = absent.later(follow, absent.supervisor.pull("tiny"))
    request = absent.later(lease, absent)
    absent.clock.until_waiting(2)
    download.go_on.set()
    assert {error_of(pull).message, error_of(request).message} == {"no network"}
    assert absent.settled() is State.FAILED
    download.error = None
    assert follow(absent.supervisor.pull("tiny")) in ([], [HALF])
    assert absent.settled() is State.STOPPED


def test_a_stop_ends_a_pull(absent: House, download: Download) -> None:
    """A stop cancels the preparation, and who follows it hears that."""
    pull = absent.later(follow, absent.supervisor.pull("tiny"))
    assert download.reached.wait(HANG_S)
    absent.later(absent.supervisor.stop, "tiny").result(HANG_S)
    assert isinstance(error_of(pull), ModelStopping)
    assert absent.state() is State.ABSENT
    assert absent.backend.calls == ["prepare tiny"]


def test_a_leaving_client_ends_no_pull(absent: House, download: Download) -> None:
    """Who leaves stops following at once; the preparation goes on."""
    token = CancelToken()
    pull = absent.later(follow, absent.supervisor.pull("tiny", token=token))
    assert download.reached.wait(HANG_S)
    token.cancel()
    assert isinstance(error_of(pull), Cancelled)
    download.go_on.set()
    assert absent.settled() is State.STOPPED


def test_news_are_told_when_they_come(absent: House, download: Download) -> None:
    """Who waits for the next thing to tell has it as soon as there is one."""
    pull = absent.supervisor.pull("tiny")
    assert next(pull) == HALF
    following = absent.later(next, pull)
    absent.clock.until_waiting(1)
    download.tell(replace(HALF, done_bytes=60))
    assert following.result(HANG_S) == replace(HALF, done_bytes=60)
    download.go_on.set()


def test_silence_is_told_apart_from_the_end(absent: House, download: Download) -> None:
    """With no news for a while a pull says so, and is not over."""
    pull = absent.supervisor.pull("tiny")
    assert next(pull) == HALF
    silent = absent.later(next, pull)
    absent.clock.until_waiting(1)
    absent.clock.advance(2)
    assert silent.result(HANG_S) is None
    assert not pull.is_over
    download.go_on.set()
    assert follow(pull) == []


def test_files_stay_during_a_pull(absent: House, download: Download) -> None:
    """What is being fetched is not deleted under the fetch."""
    absent.supervisor.pull("tiny")
    with pytest.raises(ModelBusy):
        absent.supervisor.delete_files("tiny")
    download.go_on.set()
    assert absent.settled() is State.STOPPED
