"""Work that is done again and again in a thread of its own."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)


class BackgroundLoop:
    """Calls `work` in a daemon thread after each `wait` that returns True, and ends when one returns False.

    What `work` raises goes into the log, and the loop continues. Its owner ends it: by a `wait` that returns False soon
    after the owner was closed.
    """

    def __init__(self, name: str, work: Callable[[], object], wait: Callable[[], bool]) -> None:
        self._name = name
        self._work = work
        self._wait = wait
        self._thread = threading.Thread(target=self.run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread; once only."""
        self._thread.start()

    def join(self, timeout_s: float) -> None:
        """Wait for the end of the thread; returns at once within that thread, and if it was never started."""
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout_s)

    def run(self) -> None:
        """Work until `wait` returns False."""
        while self._wait():
            try:
                self._work()
            except Exception:  # the thread's outermost code: without it the work would never be done again
                log.exception("%s: an internal error of the controller; the thread continues", self._name)
