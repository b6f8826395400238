"""Turns at running: one at a time, given up for waits, and never what anybody depends on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from controller.system.turnstile import Turnstile
from tests.fakes import HANG_S

Later = Callable[[Callable[[], None]], "Future[None]"]


@pytest.fixture
def later() -> Iterator[Later]:
    """Runs something in a thread of its own."""
    with ThreadPoolExecutor(8) as pool:
        yield pool.submit


def until_waiting(turnstile: Turnstile, count: int) -> None:
    end = time.monotonic() + HANG_S
    while turnstile._waiting != count:
        assert time.monotonic() < end, "nobody came to wait"


def test_one_at_a_time(later: Later) -> None:
    """A second thread's block begins when the first one's has ended."""
    turnstile = Turnstile(patience_s=HANG_S)
    seen = []

    def second() -> None:
        with turnstile.scope():
            seen.append("second")

    with turnstile.scope():
        other = later(second)
        until_waiting(turnstile, 1)
        seen.append("first")
    other.result(HANG_S)
    assert seen == ["first", "second"]


def test_others_run_while_one_is_away(later: Later) -> None:
    """Within `away` another has its turn, and the turn is taken up again behind it."""
    turnstile = Turnstile(patience_s=HANG_S)
    seen = []

    def second() -> None:
        with turnstile.scope():
            seen.append("second")

    with turnstile.scope():
        with turnstile.away():
            later(second).result(HANG_S)
        other = later(second)
        until_waiting(turnstile, 1)
        seen.append("first")
    other.result(HANG_S)
    assert seen == ["second", "first", "second"]


def test_a_turn_that_was_left_is_taken_up_behind_the_next_wait(later: Later) -> None:
    """After `leave` others run to the end of the scope, or of the next `away`."""
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


def test_one_that_keeps_its_turn_loses_it(later: Later) -> None:
    """Whoever waits longer than the patience takes the turn over, and its former holder gives back nothing."""
    turnstile = Turnstile(patience_s=0.01)
    seen = []
    stuck, go_on = threading.Event(), threading.Event()

    def keeps() -> None:
        with turnstile.scope():
            stuck.set()
            assert go_on.wait(HANG_S)

    def third() -> None:
        with turnstile.scope():
            seen.append("third")

    keeper = later(keeps)
    assert stuck.wait(HANG_S)
    with turnstile.scope():
        turnstile._patience_s = HANG_S
        go_on.set()
        keeper.result(HANG_S)
        other = later(third)
        until_waiting(turnstile, 1)
        seen.append("second")
    other.result(HANG_S)
    assert seen == ["second", "third"]


def test_where_many_wait_nobody_joins_them(later: Later) -> None:
    """Beyond `most_waiting` a thread runs at once, without having the turn, and gives none back."""
    turnstile = Turnstile(patience_s=HANG_S, most_waiting=1)
    seen = []

    def says(what: str) -> None:
        with turnstile.scope():
            seen.append(what)

    with turnstile.scope():
        waiting = later(lambda: says("waited"))
        until_waiting(turnstile, 1)
        later(lambda: says("did not wait")).result(HANG_S)
        seen.append("first")
    waiting.result(HANG_S)
    assert seen == ["did not wait", "first", "waited"]


def test_outside_of_a_scope_nothing_is_taken(later: Later) -> None:
    """`away` and `leave` in a thread that serves no request change nothing."""
    turnstile = Turnstile(patience_s=HANG_S, most_waiting=0)
    with turnstile.away():
        turnstile.leave()
    assert turnstile._taken.acquire(blocking=False)
