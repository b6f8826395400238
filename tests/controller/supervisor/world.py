"""A clock and threads that stop wherever another thread may overtake them, so that a test decides which goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import Future
from typing import Any, TypeVar

from controller.supervisor.slot import Slot
from tests.controller.supervisor.house import until
from tests.fakes import HANG_S, FakeClock

T = TypeVar("T")

# A parked thread outlasts a test that waits for others, so that the test is what fails.
PARKED_S = 6 * HANG_S
OURS = ("start ", "prepare ", "evict ", "remake ", "drop ")


class ParkingClock(FakeClock):
    """A clock whose `sleep` takes until a test lets the time pass."""

    def __init__(self) -> None:
        super().__init__()
        self.sleepers = threading.Condition()

    def sleep(self, seconds: float, /) -> None:
        due = self.monotonic() + seconds
        with self.sleepers:
            assert self.sleepers.wait_for(lambda: self.monotonic() >= due, PARKED_S), "it was never woken"

    def advance(self, seconds: float) -> None:
        super().advance(seconds)
        with self.sleepers:
            self.sleepers.notify_all()

    def wait(self, condition: threading.Condition, timeout_s: float | None, /) -> None:
        with self._lock:
            self._waiting.append(condition)
        try:
            assert condition.wait(PARKED_S), "a waiter was never woken"
        finally:
            with self._lock:
                self._waiting.remove(condition)


class ParkingPool:
    """The part of ThreadPoolExecutor that a reload needs; a test can see that a thread waits for its threads."""

    on_result = threading.Condition()

    def __init__(self, *_: object, **__: object) -> None: ...

    def __enter__(self) -> ParkingPool:
        return self

    def __exit__(self, *_: object) -> None: ...

    def map(self, call: Callable[[Any], T], items: Iterable[Any]) -> list[T]:
        """Return all results when all threads have ended, or raise the first error."""
        futures: list[Future[T]] = []
        for item in items:
            future: Future[T] = Future()
            futures.append(future)
            threading.Thread(target=self._run, args=(future, call, item), name=f"drop {item}", daemon=True).start()
        with self.on_result:
            assert self.on_result.wait_for(lambda: all(future.done() for future in futures), PARKED_S)
        return [future.result() for future in futures]

    def _run(self, future: Future[T], call: Callable[[Any], T], item: Any) -> None:
        try:
            future.set_result(call(item))
        except BaseException as exc:
            future.set_exception(exc)
        with self.on_result:
            self.on_result.notify_all()


def ours() -> list[str]:
    """Return the names of the supervisor's own threads."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(OURS)]


def settle(
    slots: Collection[Slot], clock: ParkingClock, on_answer: threading.Condition, futures: list[Future[Any]]
) -> None:
    """Wait until every thread has ended or waits for something that only the test can bring about.

    A thread that was notified is no longer among its condition's waiters, though it has not run yet.
    """
    waiting = [*(slot.on_change for slot in slots), clock.sleepers, on_answer, ParkingPool.on_result]

    def alive() -> int:
        return len(ours()) + sum(not future.done() for future in futures)

    def parked() -> int:
        return sum(len(vars(condition)["_waiters"]) for condition in waiting)

    def is_quiet() -> bool:
        before = alive()
        return before == parked() and before == alive()

    until(is_quiet)
