"""One controller per project: a second ends at once and names the first; a killed one blocks no other.

It catches, for example, a `post_fork` without `_lock.drop()`.
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
    """Run another controller on the same project, at another port."""
    environ = {**house.environ(), "ORCHESTRAR_PORT": str(free_ports(1))}
    command = [sys.executable, "-m", "gunicorn", "--config", str(ROOT / "controller" / "server" / "gunicorn_conf.py")]
    return subprocess.run(
        [*command, "controller.app:create_app()"],
        cwd=ROOT, env=environ, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_single_instance_the_second_ends_and_names_the_first(house: House) -> None:
    """It ends within 2 s with exit code 1, the holder's pid and what to do; the first is undisturbed."""
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
    """Only the master has the lock's file open, not its worker."""

    def holders(pid: int) -> int:
        links = [os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()]
        return sum(link.startswith(str(house.folder / "state")) for link in links)

    assert holders(house.pid) == 1
    (worker,) = children(house.pid)
    assert holders(worker) == 0


def test_single_instance_a_killed_master_blocks_no_other(house: House) -> None:
    """After kill -9 of the master alone the next controller starts at once."""
    (worker,) = children(house.pid)
    house.kill_master()
    house.start()
    assert house.pid != worker
    assert house.ask("echo", "hello").json()["text"] == "hello"


def test_single_instance_a_killed_worker_is_replaced(house: House) -> None:
    """The master keeps the lock when its worker dies."""
    (worker,) = children(house.pid)
    os.kill(worker, signal.SIGKILL)
    until("another worker", lambda: children(house.pid) not in ([], [worker]))
    assert second(house).returncode == 1


def test_single_instance_an_ended_one_leaves_no_lock(house: House) -> None:
    """After SIGTERM the file is gone, and the next controller starts."""
    assert house.terminate() == 0
    assert list((house.folder / "state" / "orchestrar").iterdir()) == []
    house.start()
