"""docker events with a stand-in `docker` on the PATH: told, begun anew, and never left behind."""

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
    """A process that was ended has no command line, until it is collected, and then no folder."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes() == b""
    except OSError:
        return True


def test_events_are_told_as_they_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each line of Docker's becomes an event; what is no event is passed over."""
    lines = "a complaint\\ndie\\tabc\\ttiny\\t137\\t\\nkill\\tabc\\ttiny\\t\\t9\\n"
    stand_in(tmp_path, monkeypatch, f'echo "$@" > {tmp_path}/call; printf "{lines}"; sleep 60')
    told: queue.SimpleQueue[Event] = queue.SimpleQueue()
    feed = EventFeed("proj", told.put, lambda: None)
    feed.start()
    assert told.get(timeout=HANG_S) == Event(action="die", container_id="abc", model_id="tiny", exit_code=137)
    assert told.get(timeout=HANG_S) == Event(action="kill", container_id="abc", model_id="tiny", signal=9)
    feed.close()
    call = (tmp_path / "call").read_text()
    assert "--filter label=com.docker.compose.project=proj --filter label=orchestrar.model " in call
    assert call.startswith("events ")


def test_a_feed_that_ends_is_begun_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When Docker goes away and comes back the feed goes on, and says that it may have missed something."""
    stand_in(
        tmp_path,
        monkeypatch,
        f"echo x >> {tmp_path}/runs; [ $(wc -l < {tmp_path}/runs) -gt 2 ] || exit 1; exec sleep 60",
    )
    # Longer than a busy machine takes to begin and end a script.
    monkeypatch.setattr(events, "LISTENS_AFTER_S", 2.0)
    gaps: queue.SimpleQueue[None] = queue.SimpleQueue()
    feed = EventFeed("proj", lambda event: None, lambda: gaps.put(None))
    feed.start()
    gaps.get(timeout=HANG_S)
    feed.close()
    assert len((tmp_path / "runs").read_text().splitlines()) == 3
    assert gaps.empty()


def test_closing_leaves_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A docker that ignores SIGTERM, and the child that it has, are gone after `close`, and collected."""
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


def test_a_controller_that_is_killed_takes_its_feed_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGKILL leaves no chance to clean up, and still no docker process stays behind."""
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
def test_what_is_no_event_is_none(line: str) -> None:
    """Complaints and lines of another form are no events."""
    assert read_event(line) is None


class TestHappenings:
    def note(self, happenings: ContainerEndings, *actions: str, container_id: str = "abc") -> None:
        for action in actions:
            name, _, told = action.partition(" ")
            number = int(told) if told else None
            signal, exit_code = (None, number) if name == "die" else (number, None)
            happenings.note(
                Event(action=name, container_id=container_id, model_id="tiny", signal=signal, exit_code=exit_code)
            )

    @pytest.mark.parametrize(
        ("actions", "ending"),
        [
            (("start", "die"), Ending(seen=True)),
            (("start", "oom", "die"), Ending(seen=True, oom=True)),
            (("start", "die 137", "oom"), Ending(seen=True, oom=True, exit_code=137)),
            (("start", "die 137"), Ending(seen=True, exit_code=137)),
            (("die 137", "start", "die 1"), Ending(seen=True, exit_code=1)),
            (("kill 15", "die"), Ending(seen=True, ordered=True)),
            (("kill", "die"), Ending(seen=True, ordered=True)),
            (("kill 9", "die", "stop"), Ending(seen=True, ordered=True)),
            (("kill 1", "die"), Ending(seen=True)),
            (("kill 9",), Ending()),
            (("oom", "die", "start", "die"), Ending(seen=True)),
            (("kill 9", "die", "start", "die"), Ending(seen=True)),
            (("kill 9", "die", "start"), Ending()),
            (("destroy",), Ending(seen=True, ordered=True)),
            ((), Ending()),
        ],
    )
    def test_the_cause_of_an_end(self, actions: tuple[str, ...], ending: Ending) -> None:
        """Out of memory only with Docker's word for it, by order only when somebody gave one that ends a process, and
        of the last run alone."""
        happenings = ContainerEndings()
        self.note(happenings, *actions)
        assert (ending, Ending()) == (happenings.ending("abc", 0), happenings.ending("other", 0))

    def test_old_containers_are_forgotten(self) -> None:
        """However many containers come and go, what is kept is bounded."""
        happenings = ContainerEndings()
        self.note(happenings, "die")
        for number in range(MOST_CONTAINERS):
            self.note(happenings, "die", container_id=f"c{number}")
        assert not happenings.ending("abc", 0).seen
        assert happenings.ending("c0", 0).seen

    def test_an_end_is_awaited(self) -> None:
        """Events come a little later than what a look at Docker shows."""
        happenings = ContainerEndings()
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(happenings.ending, "abc", HANG_S)
            self.note(happenings, "kill 9", "die")
            assert Ending(seen=True, ordered=True) == asked.result(HANG_S)

    def test_word_of_the_kernel_is_awaited(self) -> None:
        """A kill that nobody ordered may be the kernel's for want of memory, which is told a little later."""
        happenings = ContainerEndings()
        self.note(happenings, "die 137")
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(happenings.ending, "abc", HANG_S)
            self.note(happenings, "oom")
            assert asked.result(HANG_S).oom
