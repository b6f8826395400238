"""The clock that the supervisor reads and waits by."""

from __future__ import annotations

import threading
import time
from typing import Protocol

from controller.system.turnstile import TURNSTILE


class Clock(Protocol):
    """Monotonic time, and the ways to let it pass; tests have one that they move by hand."""

    def monotonic(self) -> float: ...

    def sleep(self, seconds: float, /) -> None: ...

    def wait(self, condition: threading.Condition, timeout_s: float | None, /) -> None: ...


class SystemClock:
    """The real clock."""

    monotonic = staticmethod(time.monotonic)
    sleep = staticmethod(time.sleep)

    def wait(self, condition: threading.Condition, timeout_s: float | None, /) -> None:
        """Wait for a notification, or for `timeout_s`; the caller holds the condition."""
        # Not entered again after the wait: the thread that has the turn may be waiting for the lock that we hold then.
        TURNSTILE.leave()
        condition.wait(timeout_s)
