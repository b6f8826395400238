"""One controller per project: the second ends at once and names the first; a killed one is in nobody's way.

Caught, for example: `_lock.drop()` left out of `post_fork`, and `kill -9` tried while the worker's end is held up.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from controller.settings import ROOT
from tests.docker.conftest import Build
from tests.docker.house import House, free_ports, until

REFUSED_WITHIN_S = 2.0


@pytest.fixture(scope="module")
def house(build_house: Build) -> House:
    return build_house({"echo": {}})


def second(house: House) -> subprocess.CompletedProcess[str]:
    """Another controller on the same project, at another port."""
    environ = {**house.environ(), "ORCHESTRAR_PORT": str(free_ports(1))}
    command = [sys.executable, "-m", "gunicorn", "--config", str(ROOT / "controller" / "server" / "gunicorn_conf.py")]
    return subprocess.run(
        [*command, "controller.app:create_app()"],
        cwd=ROOT, env=environ, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_single_instance_the_second_ends_and_names_the_first(house: House) -> None:
    """Within 2 s, with an exit code other than 0, the holder's pid and what to do; the first never notices."""
    pid = house.pid
    started_at = time.monotonic()
    result = second(house)
    took_s = time.monotonic() - started_at
    assert result.returncode == 1, result.stderr
    assert f"pid {pid} ({house.url})" in result.stderr
    assert f"kill {pid}" in result.stderr
    assert took_s < REFUSED_WITHIN_S
    assert house.get("/health").ok


def test_single_instance_no_child_holds_the_lock(house: House) -> None:
    """The lock's file is open in the master alone: not in its worker, nor in what that runs."""

    def holders(pid: int) -> int:
        links = [os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()]
        return sum(link.startswith(str(house.folder / "state")) for link in links)

    assert holders(house.pid) == 1
    (worker,) = children(house.pid)
    assert holders(worker) == 0


def test_single_instance_a_killed_master_is_in_nobodys_way(house: House) -> None:
    """After kill -9 of the master alone, with a request under way, the next controller starts at once."""
    (worker,) = children(house.pid)
    house.kill_master()
    house.start()
    assert house.pid != worker
    assert house.ask("echo", "hello").json()["text"] == "hello"


def test_single_instance_a_killed_worker_is_replaced(house: House) -> None:
    """The master keeps the lock over the death of its worker."""
    (worker,) = children(house.pid)
    os.kill(worker, signal.SIGKILL)
    until("another worker", lambda: children(house.pid) not in ([], [worker]))
    assert second(house).returncode == 1


def test_single_instance_an_ended_one_leaves_no_lock(house: House) -> None:
    """After SIGTERM the file is gone and the next one starts."""
    assert house.terminate() == 0
    assert list((house.folder / "state" / "orchestrar").iterdir()) == []
    house.start()
