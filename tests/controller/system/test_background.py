"""The loop of a background thread, without any waiting."""

from __future__ import annotations

import logging
import threading

import pytest

from controller.system.background import BackgroundLoop
from tests.fakes import HANG_S


def test_it_works_after_each_wait_until_one_returns_false() -> None:
    """Each round starts with a wait, and the loop ends at the first one that returns False."""
    rounds = iter([True, True, False])
    calls: list[str] = []

    def wait() -> bool:
        calls.append("wait")
        return next(rounds)

    BackgroundLoop("tests", lambda: calls.append("work"), wait).run()
    assert ["wait", "work", "wait", "work", "wait"] == calls


def test_it_survives_an_error(caplog: pytest.LogCaptureFixture) -> None:
    """An exception of the work is logged with its traceback and the thread's name, and the next round follows."""
    rounds = iter([True, True, False])
    results = iter([ZeroDivisionError("a fault"), None])
    rounds_done: list[str] = []

    def work() -> None:
        if error := next(results):
            raise error
        rounds_done.append("work")

    BackgroundLoop("the tests", work, lambda: next(rounds)).run()
    assert ["work"] == rounds_done
    (record,) = caplog.records
    assert (logging.ERROR, True) == (record.levelno, record.exc_info is not None)
    assert record.getMessage().startswith("the tests: ")


def test_the_thread_does_not_keep_the_process_alive() -> None:
    """The work runs in a daemon thread of the loop's name, and `join` waits for its end."""
    threads: list[threading.Thread] = []
    rounds = iter([True, False])
    loop = BackgroundLoop("of tests", lambda: threads.append(threading.current_thread()), lambda: next(rounds))
    loop.start()
    loop.join(HANG_S)
    (thread,) = threads
    assert ("of tests", True, False) == (thread.name, thread.daemon, thread.is_alive())


def test_join_returns_at_once_in_its_own_thread_and_before_the_start() -> None:
    """An owner may be closed by its own work, or before it was started."""
    rounds = iter([True, False])
    loop = BackgroundLoop("of tests", lambda: loop.join(HANG_S), lambda: next(rounds))
    loop.join(HANG_S)
    loop.start()
    loop.join(HANG_S)
    assert [] == list(rounds)
