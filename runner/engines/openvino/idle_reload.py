"""Reloads an idle engine, to free the memory that it has taken since it was loaded."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from runner.engines.memory import MIB

log = logging.getLogger("runner")

# A reload loses the prefix cache: after this long, a conversation hardly continues.
RELOAD_AFTER_S = 300.0
# Less is not worth a reload: the first request after a load already takes some buffers that are never freed.
GROWN_BYTES = 128 * MIB


class IdleReloader:
    """Checks an engine now and then in a thread of its own, and calls `reload` there once it is due.

    `idle_s` tells for how long the engine has been idle (None while it has requests), `memory_bytes` what it takes.
    """

    def __init__(
        self,
        *,
        idle_s: Callable[[], float | None],
        memory_bytes: Callable[[], int],
        reload: Callable[[], None],
        reload_after_s: float = RELOAD_AFTER_S,
    ) -> None:
        self._idle_s = idle_s
        self._memory_bytes = memory_bytes
        self._reload = reload
        self._reload_after_s = reload_after_s
        self._loaded_bytes = 0
        self._closed = threading.Event()

    def note_load(self) -> None:
        """Take the memory that the engine has now for what it needs."""
        self._loaded_bytes = self._memory_bytes()

    def is_due(self) -> bool:
        """Tell whether the engine has been idle for long and has grown."""
        idle_s = self._idle_s()
        is_long = idle_s is not None and idle_s >= self._reload_after_s
        return is_long and self._memory_bytes() - self._loaded_bytes > GROWN_BYTES

    def check(self) -> float:
        """Reload the engine if that is due; return in how many seconds to check again."""
        if self.is_due():
            self._reload()
        left_s = self._reload_after_s - (self._idle_s() or 0.0)
        # An idle engine does not grow.
        return left_s if left_s > 0 else self._reload_after_s

    def start(self) -> None:
        """Start the thread that checks; return at once."""
        threading.Thread(target=self._run, name="idle-reload", daemon=True).start()

    def close(self) -> None:
        """End the thread after its current check; return at once."""
        self._closed.set()

    def _run(self) -> None:
        wait_s = self._reload_after_s
        while not self._closed.wait(wait_s):
            try:
                wait_s = self.check()
            except Exception:  # The thread's outermost loop; the engine's `failure` tells whether it can still serve.
                log.exception("could not reload the idle engine to free its memory")
                return
