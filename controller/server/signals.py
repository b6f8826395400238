"""What signals do to gunicorn's worker: read models.yaml again, end with a grace period, end at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from gunicorn.workers.gthread import ThreadWorker

if TYPE_CHECKING:  # importing it takes time, and gunicorn imports this file before it refuses a second controller
    from controller.composition import Controller

# How long aborted requests have to send their error; gunicorn's master may allow no more than 2 s.
LAST_WORD_S = 1.0


def controller_of(app: Any) -> Controller:
    """Return the controller that a WSGI application serves."""
    controller: Controller = app.extensions["controller"]
    return controller


class SignalHandlingWorker(ThreadWorker):  # type: ignore[misc]
    """A worker whose signal handlers only queue their work: the code that a signal interrupts may hold any lock.

    The main loop does the work: in its first round, if the signal came before there was an app.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.must_end = False
        # How long requests in flight have after SIGTERM.
        self.grace_s = float(self.cfg.graceful_timeout)

    def init_signals(self) -> None:
        """Let SIGHUP read models.yaml again; it would end the process otherwise."""
        super().init_signals()
        signal.signal(signal.SIGHUP, lambda *_: self.method_queue.defer(self._reload))

    def _reload(self) -> None:
        reload = partial(controller_of(self.wsgi).reloader.follow, cures_drift=True)
        threading.Thread(target=reload, name="reload", daemon=True).start()

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Handle SIGTERM: end, and abort what is in flight after the grace period, with an error and not in silence."""
        if self.alive:
            self._begin_end(signal.SIGTERM)
            self.method_queue.defer(self._grant_grace)
        super().handle_exit(sig, frame)

    def _grant_grace(self) -> None:
        controller = controller_of(self.wsgi)
        controller.supervisor.end_preparations()
        self._later(self.grace_s, controller.abort_requests)

    def handle_quit(self, sig: int, frame: Any) -> None:
        """Handle SIGINT and SIGQUIT: end without a grace period."""
        self._begin_end(signal.SIGQUIT)
        if not self.booted:
            super().handle_quit(sig, frame)
        self.alive = False
        self.method_queue.defer(self._end_now)

    def _end_now(self) -> None:
        controller_of(self.wsgi).abort_requests()
        self._later(LAST_WORD_S, lambda: self.method_queue.defer(sys.exit, 0))

    def _begin_end(self, number: int) -> None:
        """Pass the signal on to the master: if it was not the master's own, the master would start another worker."""
        self.must_end = True
        if os.getppid() == self.ppid:
            os.kill(self.ppid, number)

    def _later(self, wait_s: float, call: Callable[[], None]) -> None:
        timer = threading.Timer(wait_s, call)
        timer.daemon = True
        timer.start()
