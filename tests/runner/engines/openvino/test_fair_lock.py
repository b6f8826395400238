"""The lock that many share or one has alone."""

from __future__ import annotations

import threading

from runner.engines.openvino.fair_lock import FairLock

DEADLINE_S = 20


class Visitor(threading.Thread):
    """Enters in a thread of its own, and leaves when it is told to."""

    def __init__(self, lock: FairLock, *, alone: bool) -> None:
        super().__init__(daemon=True)
        self._lock = lock
        self._alone = alone
        self.inside = threading.Event()
        self.told = threading.Event()
        self.start()

    def run(self) -> None:
        with self._lock.exclusive() if self._alone else self._lock.sharing():
            self.inside.set()
            self.told.wait(DEADLINE_S)

    def leave(self) -> None:
        self.told.set()
        self.join(DEADLINE_S)


def waits(lock: FairLock, count: int) -> None:
    """Until so many are waiting."""
    with lock._condition:
        while len(lock._queue) < count:
            lock._condition.wait(0.01)


def test_many_share_it() -> None:
    """Those that share it are inside together."""
    lock = FairLock()
    visitors = [Visitor(lock, alone=False) for _ in range(3)]
    assert all(visitor.inside.wait(DEADLINE_S) for visitor in visitors)
    for visitor in visitors:
        visitor.leave()


def test_one_alone_is_with_nobody() -> None:
    """Who wants it alone waits until the others have left, and the others until it has."""
    lock = FairLock()
    first = Visitor(lock, alone=False)
    assert first.inside.wait(DEADLINE_S)
    alone = Visitor(lock, alone=True)
    waits(lock, 1)
    assert not alone.inside.is_set()
    first.leave()
    assert alone.inside.wait(DEADLINE_S)
    second = Visitor(lock, alone=True)
    waits(lock, 1)
    assert not second.inside.is_set()
    alone.leave()
    assert second.inside.wait(DEADLINE_S)
    second.leave()


def test_nobody_is_overtaken() -> None:
    """Who comes to share it after one that waits to be alone waits behind it, so that one does not wait for ever."""
    lock = FairLock()
    first = Visitor(lock, alone=False)
    assert first.inside.wait(DEADLINE_S)
    alone = Visitor(lock, alone=True)
    waits(lock, 1)
    late = [Visitor(lock, alone=False) for _ in range(2)]
    waits(lock, 3)
    assert not any(visitor.inside.is_set() for visitor in late)
    first.leave()
    assert alone.inside.wait(DEADLINE_S)
    assert not any(visitor.inside.is_set() for visitor in late)
    alone.leave()
    assert all(visitor.inside.wait(DEADLINE_S) for visitor in late)
    for visitor in late:
        visitor.leave()


def test_an_error_inside_leaves_it_open() -> None:
    """Whoever fails inside has left all the same."""
    lock = FairLock()
    for enter in (lock.exclusive, lock.sharing, lock.exclusive):
        try:
            with enter():
                raise ValueError
        except ValueError:
            pass
    with lock.exclusive():
        pass
