"""How containers ended, as Docker's events report it: exit codes alone do not tell the cause."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, replace

from controller.docker.events import Event

MOST_CONTAINERS = 256
# 128 + SIGKILL.
EXIT_CODE_OF_SIGKILL = 137
# INT, QUIT, KILL and TERM end a process. Docker reports other signals (HUP, USR1) as `kill` events, too.
_ENDING_SIGNALS = (2, 3, 9, 15)


@dataclass(frozen=True, kw_only=True)
class Ending:
    """What Docker's events report about the end of a container's last run; nothing if it is not `is_known`.

    `was_ordered`: a user or the controller used Docker to stop, kill or remove it. A process that ended by itself, or
    was killed without Docker, has no such order. `oom`: the kernel killed one of its processes for lack of memory.
    """

    is_known: bool = False
    exit_code: int | None = None
    was_ordered: bool = False
    oom: bool = False


class ContainerEndings:
    """Remembers how the containers with the latest events ended. Thread-safe; only `ending` blocks.

    The event feed may have been down when a container died, so use `Container.oom_killed` as evidence, too. A start
    deletes what is known of the run before.
    """

    def __init__(self) -> None:
        self._change = threading.Condition()
        self._endings: OrderedDict[str, Ending] = OrderedDict()

    def note(self, event: Event) -> None:
        """Record an event; the event feed calls this."""
        with self._change:
            before = Ending() if event.action == "start" else self._of(event.container_id)
            self._endings[event.container_id] = replace(
                before,
                is_known=before.is_known or event.action in ("die", "destroy"),
                exit_code=before.exit_code if event.exit_code is None else event.exit_code,
                was_ordered=before.was_ordered or _is_order(event),
                oom=before.oom or event.action == "oom",
            )
            self._endings.move_to_end(event.container_id)
            while len(self._endings) > MOST_CONTAINERS:
                self._endings.popitem(last=False)
            self._change.notify_all()

    def ending(self, container_id: str, timeout_s: float) -> Ending:
        """Return how the container ended, by the events that arrive within `timeout_s`; sooner if none is missing."""
        with self._change:
            self._change.wait_for(lambda: self._is_complete(container_id), timeout_s)
            ending = self._of(container_id)
            return ending if ending.is_known else Ending()

    def _is_complete(self, container_id: str) -> bool:
        """Return whether no further event can tell more of the cause.

        After a SIGKILL without an order the kernel may have run out of memory: the events `oom` and `die` come from
        different sources, in either order.
        """
        ending = self._of(container_id)
        return ending.is_known and (ending.exit_code != EXIT_CODE_OF_SIGKILL or ending.was_ordered or ending.oom)

    def _of(self, container_id: str) -> Ending:
        return self._endings.get(container_id, Ending())


def _is_order(event: Event) -> bool:
    if event.action == "kill":
        return event.signal is None or event.signal in _ENDING_SIGNALS
    return event.action in ("stop", "destroy")
