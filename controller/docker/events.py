"""Events of the project's model containers: one `docker events` command, restarted if it ends, ended with us."""

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
# A command that runs for so long is listening; what happened before is the business of `on_gap`.
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
# Kills the command and its children when our end of its input closes: at `close`, or when this process dies.
_KILL_WITH_US = '"$@" & exec >&- 2>&-; read -r _; kill -KILL 0'


@dataclass(frozen=True, kw_only=True)
class Event:
    """An event of a model's container; `die` has an `exit_code`, `kill` has a `signal`."""

    action: str
    container_id: str
    model_id: str
    exit_code: int | None = None
    signal: int | None = None


class EventFeed:
    """Reads Docker's events in a thread of its own, from `start` to `close`, and calls `on_event` and `on_gap` there.

    `on_gap` means that events may have been missed until now: each start of the command makes a gap. The feed of an
    engine that hangs is as silent as one without events, so its owner must also look at Docker regularly.
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
        """Start the thread."""
        self._loop.start()

    def close(self) -> None:
        """Kill the command and wait for the thread. Idempotent."""
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
            log.warning("reading docker events failed, a new attempt follows: %s", exc)
        finally:
            was_long = time.monotonic() - started_at > LONGEST_PAUSE_S
            grown_s = min(2 * max(self._pause_s, FIRST_PAUSE_S), LONGEST_PAUSE_S)
            self._pause_s = FIRST_PAUSE_S if was_long else grown_s

    def _follow(self) -> None:
        """Run the command until it ends or `close` kills it."""
        with self._lock:
            if self._closed.is_set():
                return
            process = self._process = subprocess.Popen(
                ["sh", "-c", _KILL_WITH_US, "sh", *self._command],
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
        has_gap, rest = True, b""
        while True:
            wait_ms = max(1000 * (listens_at - time.monotonic()), 0) if has_gap else None
            if not poll.poll(wait_ms):
                has_gap = False
                self._on_gap()
                continue
            data = os.read(descriptor, _READ_BYTES)
            if not data:
                return
            *lines, rest = (rest + data).split(b"\n")
            if len(rest) > MAX_LINE_BYTES:
                raise OSError(f"a line of docker events is longer than {MAX_LINE_BYTES} bytes")
            for line in lines:
                self._report(line.decode(errors="replace"))

    def _report(self, line: str) -> None:
        event = read_event(line)
        if event is not None:
            self._on_event(event)
        elif line.strip():
            log.info("docker events: %s", line.strip())


def events_command(project: str) -> list[str]:
    """Return the command that prints the events of the containers that serve this project's models."""
    filters = [
        "type=container",
        f"label={PROJECT_LABEL}={project}",
        f"label={MODEL_LABEL}",
        *(f"event={action}" for action in ACTIONS),
    ]
    return ["docker", "events", *(word for rule in filters for word in ("--filter", rule)), "--format", _FORMAT]


def read_event(line: str) -> Event | None:
    """Return the event on a line of the command's output; None for any other line, such as an error message."""
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
