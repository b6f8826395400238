"""Whether Docker answers, without waiting for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from controller.errors import OrchestrarError

FRESH_S = 2.0
WAIT_S = 0.3
HUNG_S = 3.0


class DockerHealth:
    """Asks Docker for its version in a thread if the last answer is old. Thread-safe; a report waits a bounded time."""

    def __init__(self, ask_version: Callable[[], str], monotonic: Callable[[], float] = time.monotonic) -> None:
        self._ask_version = ask_version
        self._monotonic = monotonic
        self._change = threading.Condition()
        self._asking_since: float | None = None
        self._answered_at: float | None = None
        self._version: str | None = None
        self._reason: str | None = "Docker has not been asked yet"

    def report(self, wait_s: float = WAIT_S) -> dict[str, Any]:
        """Return `ok`, the engine's `version`, and the `reason` if it is not ok."""
        with self._change:
            now = self._monotonic()
            is_fresh = self._answered_at is not None and now - self._answered_at < FRESH_S
            if not is_fresh:
                if self._asking_since is None:
                    threading.Thread(target=self._ask, name="engine-health", daemon=True).start()
                    self._asking_since = now
                self._change.wait_for(lambda: self._asking_since is None, timeout=wait_s)
            return self._report()

    def _report(self) -> dict[str, Any]:
        reason = self._reason
        if self._asking_since is not None and (waited_s := self._monotonic() - self._asking_since) > HUNG_S:
            reason = f"Docker has not answered for {waited_s:.0f} s"
        return {"ok": reason is None, "version": self._version, "reason": reason}

    def _ask(self) -> None:
        version, reason = None, None
        try:
            version = self._ask_version()
        except OrchestrarError as exc:
            reason = exc.message
        except Exception as exc:  # the thread's outermost code: without an answer `report` would never ask again
            reason = f"asking Docker failed: {exc!r}"
        with self._change:
            self._version, self._reason = version, reason
            self._answered_at, self._asking_since = self._monotonic(), None
            self._change.notify_all()
