"""Pulls: all that a start needs is made present in the background, once for all callers."""

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
        self.has_begun = threading.Event()
        self.go_on = threading.Event()
        self.error: Exception | None = None
        self.report: OnProgress = lambda _: None

    def __call__(self, model_id: str, on_progress: Any, cancelled: Callable[[], bool]) -> None:
        self.report = on_progress
        on_progress(HALF)
        self.has_begun.set()
        until(lambda: self.go_on.is_set() or cancelled())
        if cancelled():
            raise Cancelled("preparing was cancelled")
        if self.error is not None:
            raise self.error


@pytest.fixture
def absent(pool: ThreadPoolExecutor) -> House:
    """Boot a house whose models have no files yet."""
    house = House(pool)
    house.backend.prepared_models = set()
    house.supervisor = house.boot()
    return house


@pytest.fixture
def download(absent: House) -> Download:
    absent.backend.on_prepare = slow = Download()
    return slow


def follow(pull: Pull) -> list[PreparationProgress]:
    """Return all that a pull reports, to its end."""
    steps = [progress for progress in pull if progress is not None]
    assert pull.is_over
    return steps


def test_a_pull_makes_present_and_starts_nothing(absent: House, download: Download) -> None:
    """A pull prepares and reports how far it is; then the model is stopped, and its start prepares nothing."""
    pull = absent.supervisor.pull("tiny")
    assert absent.state() is State.PREPARING
    assert next(pull) == HALF
    download.go_on.set()
    assert follow(pull) == []
    assert absent.state_after_start() is State.STOPPED
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
    """A pull of present files looks at them all the same: a user may have changed or removed them."""
    download.go_on.set()
    for _ in range(2):
        follow(absent.supervisor.pull("tiny"))
        assert absent.state_after_start() is State.STOPPED
    assert absent.backend.calls == ["prepare tiny", "prepare tiny"]


def test_a_request_during_a_pull_starts_the_model(absent: House, download: Download) -> None:
    """A request during a pull waits for the files, and then starts the model."""
    absent.supervisor.pull("tiny")
    request = absent.later(lease, absent)
    absent.clock.until_waiting(1)
    download.go_on.set()
    request.result(HANG_S).release()
    assert absent.backend.calls == ["prepare tiny", "up tiny"]


def test_a_run_during_a_pull_starts_the_model_after_it(absent: House, download: Download) -> None:
    """`run` without waiting, called during a pull, starts the model when its files are present."""
    absent.supervisor.pull("tiny")
    assert absent.supervisor.run("tiny", wait=False).state is State.PREPARING
    download.go_on.set()
    until(lambda: absent.state() is State.READY)


def test_a_pull_joins_a_start(absent: House, download: Download) -> None:
    """A pull of a model that is prepared for its start is over when its files are present, whatever the start does."""
    absent.backend.up_gate.clear()
    absent.backend.up_error = StartFailed("no such image")
    request = absent.later(lease, absent)
    assert download.has_begun.wait(HANG_S)
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
    """A pull that fails raises the reason, as does a request that waits for the model; the next pull tries again."""
    download.error = SourceError("no network")
    pull = absent.later(follow, absent.supervisor.pull("tiny"))
    request = absent.later(lease, absent)
    absent.clock.until_waiting(2)
    download.go_on.set()
    assert {error_of(pull).message, error_of(request).message} == {"no network"}
    assert absent.state_after_start() is State.FAILED
    download.error = None
    assert follow(absent.supervisor.pull("tiny")) in ([], [HALF])
    assert absent.state_after_start() is State.STOPPED


def test_a_stop_ends_a_pull(absent: House, download: Download) -> None:
    """A stop cancels the preparation, and its pull says so."""
    pull = absent.later(follow, absent.supervisor.pull("tiny"))
    assert download.has_begun.wait(HANG_S)
    absent.later(absent.supervisor.stop, "tiny").result(HANG_S)
    assert isinstance(error_of(pull), ModelStopping)
    assert absent.state() is State.ABSENT
    assert absent.backend.calls == ["prepare tiny"]


def test_a_leaving_client_ends_no_pull(absent: House, download: Download) -> None:
    """A client that leaves stops following at once; the preparation goes on."""
    token = CancelToken()
    pull = absent.later(follow, absent.supervisor.pull("tiny", token=token))
    assert download.has_begun.wait(HANG_S)
    token.cancel()
    assert isinstance(error_of(pull), Cancelled)
    download.go_on.set()
    assert absent.state_after_start() is State.STOPPED


def test_news_come_at_once(absent: House, download: Download) -> None:
    """A caller that waits for the next step has it as soon as there is one."""
    pull = absent.supervisor.pull("tiny")
    assert next(pull) == HALF
    following = absent.later(next, pull)
    absent.clock.until_waiting(1)
    download.report(replace(HALF, done_bytes=60))
    assert following.result(HANG_S) == replace(HALF, done_bytes=60)
    download.go_on.set()


def test_silence_is_not_the_end(absent: House, download: Download) -> None:
    """Without news for a while a pull returns None, and is not over."""
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
    """Files that are being fetched are not deleted meanwhile."""
    absent.supervisor.pull("tiny")
    with pytest.raises(ModelBusy):
        absent.supervisor.delete_files("tiny")
    download.go_on.set()
    assert absent.state_after_start() is State.STOPPED
