"""The lock that many threads share or one holds alone."""

from __future__ import annotations

import threading

from runner.engines.openvino.fair_lock import FairLock

DEADLINE_S = 20


class Visitor(threading.Thread):
    """Holds the lock in a thread of its own until `leave`."""

    def __init__(self, lock: FairLock, *, is_exclusive: bool) -> None:
        super().__init__(daemon=True)
        self._lock = lock
        self._is_exclusive = is_exclusive
        self.inside = threading.Event()
        self.leave_request = threading.Event()
        self.start()

    def run(self) -> None:
        with self._lock.exclusive() if self._is_exclusive else self._lock.sharing():
            self.inside.set()
            self.leave_request.wait(DEADLINE_S)

    def leave(self) -> None:
        self.leave_request.set()
        self.join(DEADLINE_S)


def wait_for_queue(lock: FairLock, count: int) -> None:
    """Wait until so many threads are in the queue."""
    with lock._condition:
        while len(lock._queue) < count:
            lock._condition.wait(0.01)


def test_many_threads_share_it() -> None:
    """Threads that share it hold it at the same time."""
    lock = FairLock()
    visitors = [Visitor(lock, is_exclusive=False) for _ in range(3)]
    assert all(visitor.inside.wait(DEADLINE_S) for visitor in visitors)
    for visitor in visitors:
        visitor.leave()


def test_an_exclusive_thread_holds_it_alone() -> None:
    """An exclusive thread waits until the others have left, and they wait until it has."""
    lock = FairLock()
    first = Visitor(lock, is_exclusive=False)
    assert first.inside.wait(DEADLINE_S)
    alone = Visitor(lock, is_exclusive=True)
    wait_for_queue(lock, 1)
    assert not alone.inside.is_set()
    first.leave()
    assert alone.inside.wait(DEADLINE_S)
    second = Visitor(lock, is_exclusive=True)
    wait_for_queue(lock, 1)
    assert not second.inside.is_set()
    alone.leave()
    assert second.inside.wait(DEADLINE_S)
    second.leave()


def test_no_thread_overtakes_another() -> None:
    """A sharing thread queues behind an exclusive one that came before, which therefore does not starve."""
    lock = FairLock()
    first = Visitor(lock, is_exclusive=False)
    assert first.inside.wait(DEADLINE_S)
    alone = Visitor(lock, is_exclusive=True)
    wait_for_queue(lock, 1)
    late = [Visitor(lock, is_exclusive=False) for _ in range(2)]
    wait_for_queue(lock, 3)
    assert not any(visitor.inside.is_set() for visitor in late)
    first.leave()
    assert alone.inside.wait(DEADLINE_S)
    assert not any(visitor.inside.is_set() for visitor in late)
    alone.leave()
    assert all(visitor.inside.wait(DEADLINE_S) for visitor in late)
    for visitor in late:
        visitor.leave()


def test_an_error_inside_releases_it() -> None:
    """A thread that fails while it holds the lock releases it."""
    lock = FairLock()
    for enter in (lock.exclusive, lock.sharing, lock.exclusive):
        try:
            with enter():
                raise ValueError
        except ValueError:
            pass
    with lock.exclusive():
        pass
