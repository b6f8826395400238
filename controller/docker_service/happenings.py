"""What Docker told of containers' ends: the evidence that exit codes alone do not give."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

from controller.docker_service.events import Event

MOST_CONTAINERS = 256


@dataclass
class _Record:
    """Of one container since it last started."""

    oom: bool = False
    ordered: bool = False
    died: bool = False


class Happenings:
    """Remembers, of the containers that had events last, how each came to its end. Thread-safe; never blocks but in
    `await_death`.

    What Docker did not tell counts as not happened: a feed that was away when a container died says nothing of it, so
    take `Container.oom_killed` as evidence, too. A start wipes what was known of the run before.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._records: OrderedDict[str, _Record] = OrderedDict()

    def note(self, event: Event) -> None:
        """Take note of an event; called by whoever follows Docker."""
        with self._changed:
            if event.action == "start" or event.container_id not in self._records:
                self._records[event.container_id] = _Record()
            self._records.move_to_end(event.container_id)
            while len(self._records) > MOST_CONTAINERS:
                self._records.popitem(last=False)
            record = self._records[event.container_id]
            record.oom |= event.action == "oom"
            # A signal that ends nothing (HUP, USR1) comes as `kill`, too; whether it did is told by `died`.
            record.ordered |= event.action in ("kill", "stop", "destroy")
            record.died |= event.action in ("die", "destroy")
            self._changed.notify_all()

    def was_oom(self, container_id: str) -> bool:
        """Whether the kernel ended a process of it for want of memory in its last run."""
        with self._changed:
            return self._of(container_id).oom

    def ended_by_order(self, container_id: str) -> bool:
        """Whether somebody told Docker to stop, kill or remove it in its last run, and it died.

        By hand or by us alike: of our own stops the supervisor knows. A process that ended by itself, or was killed
        past Docker, was ended by nobody's order.
        """
        with self._changed:
            record = self._of(container_id)
            return record.ordered and record.died

    def await_death(self, container_id: str, timeout_s: float) -> bool:
        """Wait until Docker has told of its death, `timeout_s` at most; whether it has. All evidence is in by then."""
        with self._changed:
            return self._changed.wait_for(lambda: self._of(container_id).died, timeout_s)

    def _of(self, container_id: str) -> _Record:
        return self._records.get(container_id, _Record())
