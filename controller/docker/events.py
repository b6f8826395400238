"""What happens to the project's models, as Docker tells it: one `docker events`, kept alive and ended with us."""

from __future__ import annotations

import logging
import os
import select
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from controller.docker.container import MODEL_LABEL, PROJECT_LABEL
from controller.system.background import BackgroundLoop

log = logging.getLogger(__name__)

ACTIONS = ("die", "oom", "start", "stop", "kill", "pause", "unpause", "destroy")
# A command that has lived so long listens; what happened before that is for whoever is told of a gap to find out.
LISTENS_AFTER_S = 1.0
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 10.0
CLOSE_WAIT_S = 5.0
MAX_LINE_BYTES = 64 * 1024
_READ_BYTES = 64 * 1024
_FIELDS = (
    ".Action",
    ".Actor.ID",
    *(f'index .Actor.Attributes "{name}"' for name in (MODEL_LABEL, "exitCode", "signal")),
)
_FORMAT = "\t".join(f"{{{{{field}}}}}" for field in _FIELDS)
# Ends the command, and all that it started, when our end of its input closes: at `close`, or with us, however we end.
_LEASH = '"$@" & exec >&- 2>&-; read -r _; kill -KILL 0'


@dataclass(frozen=True, kw_only=True)
class Event:
    """One thing that happened to a model's container; `exit_code` comes with `die`, `signal` with `kill`."""

    action: str
    container_id: str
    model_id: str
    exit_code: int | None = None
    signal: int | None = None


class EventFeed:
    """Follows Docker in a thread of its own, from `start` to `close`; `on_event` and `on_gap` are called there.

    `on_gap` says that events may have been missed until now: each time the command was begun anew and listens. A feed
    whose engine hangs is silent, as one where nothing happens is: look at Docker now and then all the same.
    """

    def __init__(self, project: str, on_event: Callable[[Event], None], on_gap: Callable[[], None]) -> None:
        self._command = events_command(project)
        self._on_event = on_event
        self._on_gap = on_gap
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._pause_s = 0.0
        self._process: subprocess.Popen[bytes] | None = None
        self._loop = BackgroundLoop("docker events", self._work, lambda: not self._closed.wait(self._pause_s))

    def start(self) -> None:
        """Begin to follow."""
        self._loop.start()

    def close(self) -> None:
        """End the command and the thread. Idempotent."""
        with self._lock:
            self._closed.set()
            if self._process is not None and self._process.stdin is not None:
                self._process.stdin.close()
        self._loop.join(CLOSE_WAIT_S)

    def _work(self) -> None:
        started_at = time.monotonic()
        try:
            self._follow()
        except OSError as exc:
            log.warning("docker events could not be followed: %s", exc)
        finally:
            was_long = time.monotonic() - started_at > LONGEST_PAUSE_S
            grown_s = min(2 * max(self._pause_s, FIRST_PAUSE_S), LONGEST_PAUSE_S)
            self._pause_s = FIRST_PAUSE_S if was_long else grown_s

    def _follow(self) -> None:
        """Run the command to its end, or ours."""
        with self._lock:
            if self._closed.is_set():
                return
            process = self._process = subprocess.Popen(
                ["sh", "-c", _LEASH, "sh", *self._command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self._read(process)
        finally:
            with self._lock:
                self._process = None
                assert process.stdin is not None
                process.stdin.close()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        descriptor, listens_at = process.stdout.fileno(), time.monotonic() + LISTENS_AFTER_S
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        gap, begun = True, b""
        while True:
            wait_ms = max(1000 * (listens_at - time.monotonic()), 0) if gap else None
            if not poll.poll(wait_ms):
                gap = False
                self._on_gap()
                continue
            received = os.read(descriptor, _READ_BYTES)
            if not received:
                return
            *lines, begun = (begun + received).split(b"\n")
            if len(begun) > MAX_LINE_BYTES:
                raise OSError("a line of docker events has no end")
            for line in lines:
                self._tell(line.decode(errors="replace"))

    def _tell(self, line: str) -> None:
        event = read_event(line)
        if event is not None:
            self._on_event(event)
        elif line.strip():
            log.info("docker events: %s", line.strip())


def events_command(project: str) -> list[str]:
    """What tells of the containers that serve this project's models."""
    filters = [
        "type=container",
        f"label={PROJECT_LABEL}={project}",
        f"label={MODEL_LABEL}",
        *(f"event={action}" for action in ACTIONS),
    ]
    return ["docker", "events", *(word for found in filters for word in ("--filter", found)), "--format", _FORMAT]


def read_event(line: str) -> Event | None:
    """The event that a line stands for; None for a line that is none, Docker's complaints among them."""
    fields = line.split("\t")
    if len(fields) != len(_FIELDS):
        return None
    action, container_id, model_id, exit_code, signal = fields
    return Event(
        action=action,
        container_id=container_id,
        model_id=model_id,
        exit_code=int(exit_code) if exit_code.isdigit() else None,
        signal=int(signal) if signal.isdigit() else None,
    )
