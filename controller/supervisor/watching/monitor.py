"""The thread that stops idle models and looks at Docker every few seconds."""

from __future__ import annotations

import logging
from collections.abc import Callable

from controller.errors import OrchestrarError
from controller.supervisor.clock import Clock, SystemClock
from controller.supervisor.supervisor import Supervisor
from controller.system.background import BackgroundLoop

log = logging.getLogger(__name__)

LOOK_EVERY_S = 10.0


class Monitor:
    """Sleeps until the next idle deadline, or the next look at Docker, at which it calls `tidy`, too."""

    def __init__(
        self, supervisor: Supervisor, *, clock: Clock | None = None, tidy: Callable[[], None] = lambda: None
    ) -> None:
        self._supervisor = supervisor
        self._tidy = tidy
        self._clock = clock or SystemClock()
        self._look_at = self._clock.monotonic()
        self._reachable = True
        self._loop = BackgroundLoop("monitor", self.work, lambda: supervisor.rest_until_due(self._look_at))

    def start(self) -> None:
        """Start the thread, which runs until the supervisor closes."""
        self._loop.start()

    def work(self) -> None:
        """Stop idle models, and look at Docker if that is due. Logs once that Docker is away."""
        try:
            self._supervisor.reap()
            if self._clock.monotonic() >= self._look_at:
                self._look_at = self._clock.monotonic() + LOOK_EVERY_S
                self._tidy()
                self._supervisor.adopt()
                self._supervisor.preload()
                self._supervisor.measure()
        except OrchestrarError as exc:
            if self._reachable:
                log.warning("looking at Docker failed, trying again: %s", exc.message)
            self._reachable = False
        else:
            self._reachable = True
