"""Turns at running: one thread at a time, which gives the turn up for waits; only speed depends on it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from controller.system.turnstile import Turnstile
from tests.fakes import HANG_S

PATIENCE_S = 0.01
Later = Callable[[Callable[[], None]], "Future[None]"]


@pytest.fixture
def later() -> Iterator[Later]:
    """Run something in a thread of its own."""
    with ThreadPoolExecutor(8) as pool:
        yield pool.submit


def until_waiting(turnstile: Turnstile, count: int) -> None:
    end = time.monotonic() + HANG_S
    while turnstile.waiting != count:
        assert time.monotonic() < end, "no thread came to wait"


def test_one_at_a_time(later: Later) -> None:
    """A second thread's block begins when the first one's has ended."""
    turnstile = Turnstile(patience_s=HANG_S)
    order = []

    def second() -> None:
        with turnstile.scope():
            order.append("second")

    with turnstile.scope():
        other = later(second)
        until_waiting(turnstile, 1)
        order.append("first")
    other.result(HANG_S)
    assert order == ["first", "second"]


def test_others_run_while_one_is_away(later: Later) -> None:
    """Within `away` another thread has the turn; after it the first thread waits for the turn again."""
    turnstile = Turnstile(patience_s=HANG_S)
    order = []

    def second() -> None:
        with turnstile.scope():
            order.append("second")

    with turnstile.scope():
        with turnstile.away():
            later(second).result(HANG_S)
        other = later(second)
        until_waiting(turnstile, 1)
        order.append("first")
    other.result(HANG_S)
    assert order == ["second", "first", "second"]


def test_leave_gives_the_turn_up_until_the_next_wait(later: Later) -> None:
    """After `leave` other threads run until the end of the scope, or of the next `away`."""
    turnstile = Turnstile(patience_s=HANG_S)

    def second() -> None:
        with turnstile.scope():
            pass

    with turnstile.scope():
        turnstile.leave()
        later(second).result(HANG_S)
        with turnstile.away():
            pass
        other = later(second)
        until_waiting(turnstile, 1)
    other.result(HANG_S)


def test_a_thread_that_keeps_the_turn_loses_it(later: Later) -> None:
    """A thread that waits longer than the patience takes the turn over, and the former holder gives nothing back."""
    turnstile = Turnstile(patience_s=PATIENCE_S)
    order = []
    stuck, go_on = threading.Event(), threading.Event()

    def keeps() -> None:
        with turnstile.scope():
            stuck.set()
            assert go_on.wait(HANG_S)

    def third() -> None:
        with turnstile.scope():
            order.append("third")

    keeper = later(keeps)
    assert stuck.wait(HANG_S)
    with turnstile.scope():
        go_on.set()
        keeper.result(HANG_S)
        assert not turnstile.is_free
        order.append("second")
    assert turnstile.is_free
    later(third).result(HANG_S)
    assert order == ["second", "third"]


def test_a_thread_does_not_wait_if_many_do(later: Later) -> None:
    """Beyond `most_waiting` a thread runs at once without the turn, and gives none back."""
    turnstile = Turnstile(patience_s=HANG_S, most_waiting=1)
    order = []

    def note(what: str) -> None:
        with turnstile.scope():
            order.append(what)

    with turnstile.scope():
        waiter = later(lambda: note("waited"))
        until_waiting(turnstile, 1)
        later(lambda: note("did not wait")).result(HANG_S)
        order.append("first")
    waiter.result(HANG_S)
    assert order == ["did not wait", "first", "waited"]


def test_outside_of_a_scope_there_is_no_turn() -> None:
    """`away` and `leave` in a thread that serves no request change nothing."""
    turnstile = Turnstile(patience_s=HANG_S, most_waiting=0)
    with turnstile.away():
        turnstile.leave()
    assert turnstile.is_free
