"""When an engine that nobody uses gives back the memory that it took since it was loaded."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

log = logging.getLogger("runner")

# Loading anew costs the prefix cache: after this long a conversation hardly goes on.
REST_S = 300.0
# Less is not worth it; the first request after a load alone takes some buffers for good.
GROWN_BYTES = 128 * 1024 * 1024


class IdleReloader:
    """Looks at an engine, seldom, from a thread of its own; `give_back` is called there once it is time.

    `idle_s` tells for how long nobody has used the engine (None while somebody does), `memory_bytes` what it has.
    """

    def __init__(
        self,
        *,
        idle_s: Callable[[], float | None],
        memory_bytes: Callable[[], int],
        give_back: Callable[[], None],
        rest_s: float = REST_S,
    ) -> None:
        self._idle_s = idle_s
        self._memory_bytes = memory_bytes
        self._give_back = give_back
        self._rest_s = rest_s
        self._loaded_bytes = 0
        self._closed = threading.Event()

    def loaded(self) -> None:
        """What the engine has now is what it needs."""
        self._loaded_bytes = self._memory_bytes()

    def is_due(self) -> bool:
        """Whether nobody has used the engine for long, and it has grown."""
        idle_s = self._idle_s()
        is_long = idle_s is not None and idle_s >= self._rest_s
        return is_long and self._memory_bytes() - self._loaded_bytes > GROWN_BYTES

    def look(self) -> float:
        """Gives back if it is time to; returns in how many seconds to look again."""
        if self.is_due():
            self._give_back()
        left_s = self._rest_s - (self._idle_s() or 0.0)
        # Nothing grows in an engine that nobody uses.
        return left_s if left_s > 0 else self._rest_s

    def start(self) -> None:
        """Begins to look; returns at once."""
        threading.Thread(target=self._run, name="rest", daemon=True).start()

    def close(self) -> None:
        """Ends it after the look under way; returns at once."""
        self._closed.set()

    def _run(self) -> None:
        wait_s = self._rest_s
        while not self._closed.wait(wait_s):
            try:
                wait_s = self.look()
            except Exception:  # The thread's outermost loop; the engine's own `failure` tells what is left of it.
                log.exception("memory could not be given back")
                return
