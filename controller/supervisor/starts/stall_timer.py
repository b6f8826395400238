"""The stall timer of a start: each sign of progress restarts it."""

from __future__ import annotations

from collections.abc import Callable

from controller.docker.container import Container

# Weights that are being read show as memory; a smaller growth is no sign of progress.
GROWTH_BYTES = 16 * 1024 * 1024
# How often within its time the log of a container that shows no other sign is read.
LOOKS_AT_LOG = 4


class StallTimer:
    """The signs of progress of a starting container. Times are monotonic seconds."""

    def __init__(
        self, container: Container, logs: Callable[[Container], list[str]], timeout_s: float, now: float
    ) -> None:
        self._container = container
        self._logs = logs
        self._timeout_s = timeout_s
        self._progress_at = now
        self._log_looked_at = now
        self._log: list[str] | None = None
        self._grown_to = 0
        self.last_phase = ""
        self.peak_bytes = 0

    def phase(self, phase: str, now: float) -> None:
        """Note the phase that its server reports."""
        if phase != self.last_phase:
            self.last_phase, self._progress_at = phase, now

    def memory(self, used_bytes: int | None, now: float) -> None:
        """Note the memory that it uses; None if that cannot be read."""
        self.peak_bytes = max(self.peak_bytes, used_bytes or 0)
        if self.peak_bytes >= self._grown_to + GROWTH_BYTES:
            self._grown_to, self._progress_at = self.peak_bytes, now

    def log(self, now: float) -> None:
        """Read its last log lines now and then: each time costs a Docker call."""
        if now - self._log_looked_at < self._timeout_s / LOOKS_AT_LOG:
            return
        self._log_looked_at = now
        log = self._logs(self._container)
        if log and log != self._log:
            self._log, self._progress_at = log, now

    def are_missing(self, now: float) -> bool:
        """Return whether the time is up without any of these signs."""
        return now - self._progress_at >= self._timeout_s
