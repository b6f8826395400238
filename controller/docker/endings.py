"""What Docker told of containers' ends: the evidence that exit codes alone do not give."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, replace

from controller.docker.events import Event

MOST_CONTAINERS = 256
# 128 + SIGKILL.
KILLED = 137
# The signals that ask a process to end: INT, QUIT, KILL and TERM. Others (HUP, USR1) come as `kill`, too.
_ENDING_SIGNALS = (2, 3, 9, 15)


@dataclass(frozen=True, kw_only=True)
class Ending:
    """What Docker told of the end of a container's last run; without `seen` nothing is known of it.

    `ordered`: somebody told Docker to stop, kill or remove it, by hand or we ourselves. A process that ended by itself,
    or was killed past Docker, was ended by nobody's order. `oom`: the kernel ended a process of it for want of memory.
    `exit_code`: as its end told it.
    """

    seen: bool = False
    exit_code: int | None = None
    ordered: bool = False
    oom: bool = False


class ContainerEndings:
    """Remembers, of the containers that had events last, how each came to its end. Thread-safe; only `ending` blocks.

    A feed that was away when a container died says nothing of it, so take `Container.oom_killed` as evidence, too. A
    start wipes what was known of the run before.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._endings: OrderedDict[str, Ending] = OrderedDict()

    def note(self, event: Event) -> None:
        """Take note of an event; called by whoever follows Docker."""
        with self._changed:
            before = Ending() if event.action == "start" else self._of(event.container_id)
            self._endings[event.container_id] = replace(
                before,
                seen=before.seen or event.action in ("die", "destroy"),
                exit_code=before.exit_code if event.exit_code is None else event.exit_code,
                ordered=before.ordered or _is_order(event),
                oom=before.oom or event.action == "oom",
            )
            self._endings.move_to_end(event.container_id)
            while len(self._endings) > MOST_CONTAINERS:
                self._endings.popitem(last=False)
            self._changed.notify_all()

    def ending(self, container_id: str, timeout_s: float) -> Ending:
        """How the container ended; waits `timeout_s` at most for Docker to tell all, then goes by what it has told."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_told(container_id), timeout_s)
            found = self._of(container_id)
            return found if found.seen else Ending()

    def _is_told(self, container_id: str) -> bool:
        """Whether all is known. The kernel's kill for want of memory and the end that it makes are told by different
        sources, in either order."""
        found = self._of(container_id)
        return found.seen and (found.exit_code != KILLED or found.ordered or found.oom)

    def _of(self, container_id: str) -> Ending:
        return self._endings.get(container_id, Ending())


def _is_order(event: Event) -> bool:
    if event.action == "kill":
        return event.signal is None or event.signal in _ENDING_SIGNALS
    return event.action in ("stop", "destroy")
