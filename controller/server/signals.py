"""What signals do to gunicorn's worker: read models.yaml anew, end with a grace, end at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from gunicorn.workers.gthread import ThreadWorker

if TYPE_CHECKING:  # it takes its time, and gunicorn loads this before a second controller is turned away
    from controller.composition import Controller

# What is cut by an end without grace has so long to say so; gunicorn's master may have no more than 2 s.
LAST_WORD_S = 1.0


def controller_of(app: Any) -> Controller:
    """Return the controller that a WSGI application serves."""
    controller: Controller = app.extensions["controller"]
    return controller


class SignalHandlingWorker(ThreadWorker):  # type: ignore[misc]
    """What a signal interrupts may hold any lock: its handler only leaves word, and the main loop does the rest.

    That is at its first turn for what came before there was an app.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.is_told_to_end = False
        # How long requests under way have after SIGTERM.
        self.grace_s = float(self.cfg.graceful_timeout)

    def init_signals(self) -> None:
        """SIGHUP reads models.yaml anew; it would end the process otherwise."""
        super().init_signals()
        signal.signal(signal.SIGHUP, lambda *_: self.method_queue.defer(self._reload))

    def _reload(self) -> None:
        reload = partial(controller_of(self.wsgi).reloader.follow, cures_drift=True)
        threading.Thread(target=reload, name="reload", daemon=True).start()

    def handle_exit(self, sig: int, frame: Any) -> None:
        """SIGTERM: what is still under way when the grace ends is cut with an error, not in silence."""
        if self.alive:
            self._told_to_end(signal.SIGTERM)
            self.method_queue.defer(self._begin_to_end)
        super().handle_exit(sig, frame)

    def _begin_to_end(self) -> None:
        controller = controller_of(self.wsgi)
        controller.supervisor.end_preparations()
        self._later(self.grace_s, controller.cut)

    def handle_quit(self, sig: int, frame: Any) -> None:
        """SIGINT and SIGQUIT: the end without any grace."""
        self._told_to_end(signal.SIGQUIT)
        if not self.booted:
            super().handle_quit(sig, frame)
        self.alive = False
        self.method_queue.defer(self._end_now)

    def _end_now(self) -> None:
        controller_of(self.wsgi).cut()
        self._later(LAST_WORD_S, lambda: self.method_queue.defer(sys.exit, 0))

    def _told_to_end(self, number: int) -> None:
        """Tell the master as well, which would put another worker in this one's place if the signal was not its own."""
        self.is_told_to_end = True
        if os.getppid() == self.ppid:
            os.kill(self.ppid, number)

    def _later(self, wait_s: float, call: Callable[[], None]) -> None:
        timer = threading.Timer(wait_s, call)
        timer.daemon = True
        timer.start()
