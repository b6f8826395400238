"""Looks at the models that Docker's events are about, soon after an event."""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from collections.abc import Callable

from controller.docker.events import Event
from controller.errors import OrchestrarError
from controller.supervisor.clock import Clock, SystemClock
from controller.supervisor.states import State
from controller.supervisor.supervisor import Supervisor
from controller.supervisor.view import ModelView
from controller.system.background import BackgroundLoop

log = logging.getLogger(__name__)

# One action makes several events (a stop: kill, die, stop), for which one look is enough.
SETTLE_S = 0.1
# A model in the middle of a start or stop is looked at after that.
ASK_AGAIN_S = 0.5
# Calls of a Docker that hangs have deadlines of their own; we try again until it answers.
LOOK_AGAIN_S = 10.0
_UNDER_WAY = frozenset({State.PREPARING, State.STARTING, State.DRAINING})
_ENDS = frozenset({"die", "destroy"})


class DockerEventFollower:
    """Notes events and has the supervisor look at their models, in a thread of its own. Thread-safe.

    `after_gap` is called, too, if events may have been missed, and again later if it returned False; it may block on
    Docker.
    """

    def __init__(
        self, supervisor: Supervisor, after_gap: Callable[[], bool] = lambda: True, *, clock: Clock | None = None
    ) -> None:
        self._supervisor = supervisor
        self._after_gap = after_gap
        self._clock = clock or SystemClock()
        self._condition = threading.Condition()
        self._events: defaultdict[str, set[tuple[str, str]]] = defaultdict(set)
        self._due_at: float | None = None
        self._had_gap = self._is_untidy = False
        self._closed = False
        self._loop = BackgroundLoop("follower", self.work, self._rest)

    def start(self) -> None:
        """Start the thread, which runs until `close`."""
        self._loop.start()

    def close(self) -> None:
        """End the thread."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()

    def note(self, event: Event) -> None:
        """Note an event of a model's container; returns at once."""
        with self._condition:
            self._events[event.model_id].add((event.action, event.container_id))
            self._look_within(SETTLE_S)

    def note_gap(self) -> None:
        """Note that events may have been missed; returns at once."""
        with self._condition:
            self._had_gap = True
            self._look_within(0.0)

    def work(self) -> None:
        """Look at the models of noted events, and keep the events of models that cannot be judged yet."""
        with self._condition:
            events, self._events = self._events, defaultdict(set)
            had_gap, self._had_gap = self._had_gap, False
            is_untidy, self._is_untidy = self._is_untidy, False
            self._due_at = None
        if had_gap:
            self._look_after_gap()
        elif is_untidy:
            self._tidy()
        for view in self._supervisor.snapshot() if events else []:
            its_events = events.get(view.spec.id, set())
            if its_events and view.state in _UNDER_WAY:
                with self._condition:
                    self._events[view.spec.id] |= its_events
                    self._look_within(ASK_AGAIN_S)
            elif calls_for_a_look(view, its_events):
                self._look(view.spec.id)

    def _look_after_gap(self) -> None:
        if self._look(None):
            self._tidy()
            self._supervisor.preload(after_gap=True)
            return
        with self._condition:
            self._had_gap = True
            self._look_within(LOOK_AGAIN_S)

    def _tidy(self) -> None:
        if not self._after_gap():
            with self._condition:
                self._is_untidy = True
                self._look_within(LOOK_AGAIN_S)

    def _look(self, model_id: str | None) -> bool:
        """Return whether the look at Docker succeeded."""
        try:
            self._supervisor.adopt(model_id)
        except OrchestrarError as exc:
            log.info("looking at Docker failed, waiting for the next regular look: %s", exc.message)
            return False
        return True

    def _look_within(self, seconds: float) -> None:
        due_at = self._clock.monotonic() + seconds
        if self._due_at is None or due_at < self._due_at:
            self._due_at = due_at
            self._condition.notify_all()

    def _rest(self) -> bool:
        """Wait until something is due; False once closed."""
        with self._condition:
            while not self._closed:
                left_s = None if self._due_at is None else self._due_at - self._clock.monotonic()
                if left_s is not None and left_s <= 0:
                    return True
                self._clock.wait(self._condition, left_s)
            return False


def calls_for_a_look(view: ModelView, events: set[tuple[str, str]]) -> bool:
    """Return whether these (action, container) are news: the record already has what we did ourselves, and a look costs
    Docker commands."""
    current = view.container.id if view.container is not None else None
    for action, container_id in events:
        if action in _ENDS and container_id == current:
            return True
        if action == "start" and container_id != current:
            return True
        if action == "pause" and view.state is not State.PAUSED:
            return True
        if action == "unpause" and view.state is State.PAUSED:
            return True
    return False
