"""Looks at the models that Docker told of, soon after it did."""

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

# One deed makes several events (a stop: kill, die, stop), and one look is enough for them.
SETTLE_S = 0.1
# A model in the middle of a start or stop is looked at when that is over.
ASK_AGAIN_S = 0.5
# A Docker that hangs has its own deadlines; what happened meanwhile is asked for until it answers.
LOOK_AGAIN_S = 10.0
_UNDER_WAY = frozenset({State.PREPARING, State.STARTING, State.DRAINING})
_ENDS = frozenset({"die", "destroy"})


class DockerEventFollower:
    """Takes note of events and has the supervisor look at what they are about, in a thread of its own. Thread-safe.

    `after_gap` is called, too, whenever events may have been missed, and again a while later when it was in vain
    (False); it may block on Docker.
    """

    def __init__(
        self, supervisor: Supervisor, after_gap: Callable[[], bool] = lambda: True, *, clock: Clock | None = None
    ) -> None:
        self._supervisor = supervisor
        self._after_gap = after_gap
        self._clock = clock or SystemClock()
        self._changed = threading.Condition()
        self._told: defaultdict[str, set[tuple[str, str]]] = defaultdict(set)
        self._due_at: float | None = None
        self._had_gap = self._is_untidy = False
        self._closed = False
        self._loop = BackgroundLoop("follower", self.work, self._rest)

    def start(self) -> None:
        """Follow until `close`."""
        self._loop.start()

    def close(self) -> None:
        """Let the thread go."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def note(self, event: Event) -> None:
        """Something happened to a model's container; returns at once."""
        with self._changed:
            self._told[event.model_id].add((event.action, event.container_id))
            self._look_within(SETTLE_S)

    def note_gap(self) -> None:
        """Anything may have happened; returns at once."""
        with self._changed:
            self._had_gap = True
            self._look_within(0.0)

    def work(self) -> None:
        """One round: look at what was told of, and keep in mind what cannot be judged yet."""
        with self._changed:
            told, self._told = self._told, defaultdict(set)
            had_gap, self._had_gap = self._had_gap, False
            is_untidy, self._is_untidy = self._is_untidy, False
            self._due_at = None
        if had_gap:
            self._look_after_gap()
        elif is_untidy:
            self._tidy()
        for view in self._supervisor.snapshot() if told else []:
            found = told.get(view.spec.id, set())
            if found and view.state in _UNDER_WAY:
                with self._changed:
                    self._told[view.spec.id] |= found
                    self._look_within(ASK_AGAIN_S)
            elif calls_for_a_look(view, found):
                self._look(view.spec.id)

    def _look_after_gap(self) -> None:
        if self._look(None):
            self._tidy()
            self._supervisor.preload(after_gap=True)
            return
        with self._changed:
            self._had_gap = True
            self._look_within(LOOK_AGAIN_S)

    def _tidy(self) -> None:
        if not self._after_gap():
            with self._changed:
                self._is_untidy = True
                self._look_within(LOOK_AGAIN_S)

    def _look(self, model_id: str | None) -> bool:
        """Whether Docker could be looked at."""
        try:
            self._supervisor.adopt(model_id)
        except OrchestrarError as exc:
            log.info("looking at Docker failed, the next regular look will tell: %s", exc.message)
            return False
        return True

    def _look_within(self, seconds: float) -> None:
        due_at = self._clock.monotonic() + seconds
        if self._due_at is None or due_at < self._due_at:
            self._due_at = due_at
            self._changed.notify_all()

    def _rest(self) -> bool:
        """Wait until something is due; False when closed."""
        with self._changed:
            while not self._closed:
                left_s = None if self._due_at is None else self._due_at - self._clock.monotonic()
                if left_s is not None and left_s <= 0:
                    return True
                self._clock.wait(self._changed, left_s)
            return False


def calls_for_a_look(view: ModelView, told: set[tuple[str, str]]) -> bool:
    """Whether these (action, container) are news: of what we did ourselves memory knows already, and a look has its
    price in Docker commands."""
    current = view.container.id if view.container is not None else None
    for action, container_id in told:
        if action in _ENDS and container_id == current:
            return True
        if action == "start" and container_id != current:
            return True
        if action == "pause" and view.state is not State.PAUSED:
            return True
        if action == "unpause" and view.state is State.PAUSED:
            return True
    return False
