"""`docker events` with a stand-in `docker` on the PATH: read, restarted, and never left behind."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from controller.docker import events
from controller.docker.endings import MOST_CONTAINERS, ContainerEndings, Ending
from controller.docker.events import Event, EventFeed, read_event
from controller.settings import ROOT
from tests.fakes import HANG_S


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "LISTENS_AFTER_S", 0.05)
    monkeypatch.setattr(events, "FIRST_PAUSE_S", 0.02)


def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Put a shell script before the real docker."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "docker").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + HANG_S
    while not condition():
        assert time.monotonic() < end, "it never became true"
        time.sleep(0.01)


def is_over(pid: int) -> bool:
    """Return whether the process has ended: it has no command line until it is collected, and then no folder."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes() == b""
    except OSError:
        return True


def test_events_are_reported_as_they_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each line of Docker's becomes an event; any other line is skipped."""
    lines = "a complaint\\ndie\\tabc\\ttiny\\t137\\t\\nkill\\tabc\\ttiny\\t\\t9\\n"
    stand_in(tmp_path, monkeypatch, f'echo "$@" > {tmp_path}/call; printf "{lines}"; sleep 60')
    received_events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    feed = EventFeed("proj", received_events.put, lambda: None)
    feed.start()
    assert received_events.get(timeout=HANG_S) == Event(
        action="die", container_id="abc", model_id="tiny", exit_code=137
    )
    assert received_events.get(timeout=HANG_S) == Event(action="kill", container_id="abc", model_id="tiny", signal=9)
    feed.close()
    call = (tmp_path / "call").read_text()
    assert "--filter label=com.docker.compose.project=proj --filter label=orchestrar.model " in call
    assert call.startswith("events ")


def test_a_feed_that_ends_is_restarted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When Docker comes back the feed continues, and reports that it may have missed events."""
    stand_in(
        tmp_path,
        monkeypatch,
        f"echo x >> {tmp_path}/runs; [ $(wc -l < {tmp_path}/runs) -gt 2 ] || exit 1; exec sleep 60",
    )
    # Longer than a busy machine takes to run a script.
    monkeypatch.setattr(events, "LISTENS_AFTER_S", 2.0)
    gaps: queue.SimpleQueue[None] = queue.SimpleQueue()
    feed = EventFeed("proj", lambda event: None, lambda: gaps.put(None))
    feed.start()
    gaps.get(timeout=HANG_S)
    feed.close()
    assert len((tmp_path / "runs").read_text().splitlines()) == 3
    assert gaps.empty()


def test_closing_leaves_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A docker that ignores SIGTERM and its child are gone after `close`, and collected."""
    (tmp_path / "child").write_text(f"trap '' TERM HUP; echo $$ >> {tmp_path}/pids; sleep 60")
    stand_in(tmp_path, monkeypatch, f"trap '' TERM HUP; echo $$ >> {tmp_path}/pids; sh {tmp_path}/child")
    feed = EventFeed("proj", lambda event: None, lambda: None)
    feed.start()
    pids = tmp_path / "pids"
    until(lambda: pids.exists() and len(pids.read_text().split()) == 2)
    feed.close()
    until(lambda: all(is_over(int(pid)) for pid in pids.read_text().split()))
    assert "docker events" not in {thread.name for thread in threading.enumerate()}
    assert feed._process is None


def test_the_feed_of_a_killed_controller_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even after a SIGKILL, which leaves no chance to clean up, no docker process remains."""
    stand_in(tmp_path, monkeypatch, f"echo $$ > {tmp_path}/pid; exec sleep 60")
    program = (
        "import time\n"
        "from controller.docker.events import EventFeed\n"
        "EventFeed('proj', print, lambda: None).start()\n"
        "time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT) as process:
        until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text() != "")
        process.kill()
    until(lambda: is_over(int((tmp_path / "pid").read_text())))


@pytest.mark.parametrize("line", ["", "Cannot connect to the Docker daemon", "a\tb", "a\tb\tc\td\te\tf"])
def test_any_other_line_is_no_event(line: str) -> None:
    """Error messages and lines of another form are no events."""
    assert read_event(line) is None


class TestContainerEndings:
    def note(self, endings: ContainerEndings, *actions: str, container_id: str = "abc") -> None:
        for action in actions:
            name, _, text = action.partition(" ")
            number = int(text) if text else None
            signal, exit_code = (None, number) if name == "die" else (number, None)
            endings.note(
                Event(action=name, container_id=container_id, model_id="tiny", signal=signal, exit_code=exit_code)
            )

    @pytest.mark.parametrize(
        ("actions", "ending"),
        [
            (("start", "die"), Ending(is_known=True)),
            (("start", "oom", "die"), Ending(is_known=True, oom=True)),
            (("start", "die 137", "oom"), Ending(is_known=True, oom=True, exit_code=137)),
            (("start", "die 137"), Ending(is_known=True, exit_code=137)),
            (("die 137", "start", "die 1"), Ending(is_known=True, exit_code=1)),
            (("kill 15", "die"), Ending(is_known=True, was_ordered=True)),
            (("kill", "die"), Ending(is_known=True, was_ordered=True)),
            (("kill 9", "die", "stop"), Ending(is_known=True, was_ordered=True)),
            (("kill 1", "die"), Ending(is_known=True)),
            (("kill 9",), Ending()),
            (("oom", "die", "start", "die"), Ending(is_known=True)),
            (("kill 9", "die", "start", "die"), Ending(is_known=True)),
            (("kill 9", "die", "start"), Ending()),
            (("destroy",), Ending(is_known=True, was_ordered=True)),
            ((), Ending()),
        ],
    )
    def test_the_cause_of_an_end(self, actions: tuple[str, ...], ending: Ending) -> None:
        """Only Docker's own event means out of memory, only a signal that ends a process is an order, and what happened
        before the last start does not count."""
        endings = ContainerEndings()
        self.note(endings, *actions)
        assert (ending, Ending()) == (endings.ending("abc", 0), endings.ending("other", 0))

    def test_old_containers_are_dropped(self) -> None:
        """However many containers come and go, the memory of them is bounded."""
        endings = ContainerEndings()
        self.note(endings, "die")
        for number in range(MOST_CONTAINERS):
            self.note(endings, "die", container_id=f"c{number}")
        assert not endings.ending("abc", 0).is_known
        assert endings.ending("c0", 0).is_known

    def test_an_end_is_awaited(self) -> None:
        """Events arrive a little later than an inspection shows the end."""
        endings = ContainerEndings()
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(endings.ending, "abc", HANG_S)
            self.note(endings, "kill 9", "die")
            assert Ending(is_known=True, was_ordered=True) == future.result(HANG_S)

    def test_the_event_of_the_kernel_is_awaited(self) -> None:
        """A SIGKILL without an order may come from the kernel for lack of memory; its event arrives a little later."""
        endings = ContainerEndings()
        self.note(endings, "die 137")
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(endings.ending, "abc", HANG_S)
            self.note(endings, "oom")
            assert future.result(HANG_S).oom
