"""The lock file: one holder, threads and processes alike."""

from __future__ import annotations

import errno
import fcntl
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from controller.errors import Cancelled, ModelBusy
from controller.system import file_lock
from tests.fakes import HANG_S

HOLDER = """
import sys
from pathlib import Path
from controller.system.file_lock import hold_at_once
with hold_at_once(Path(sys.argv[1]), "busy"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tiny.lock"


def test_the_second_holder_is_refused_at_once(path: Path) -> None:
    """The lock excludes a second holder in the same thread, too, and the refusal says the given sentence."""
    with (
        file_lock.hold_at_once(path, "free"),
        pytest.raises(ModelBusy, match="tiny is busy"),
        file_lock.hold_at_once(path, "tiny is busy"),
    ):
        pytest.fail("two holders")
    with file_lock.hold_at_once(path, "free again"):
        pass


def test_the_second_holder_waits_between_its_tries(path: Path) -> None:
    """`hold` calls `wait` while another thread holds the lock, and returns when that one has released it."""
    waits: list[float] = []
    is_held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with file_lock.hold_at_once(path, "free"):
            is_held.set()
            assert release.wait(HANG_S)

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            release.set()
            holder.join(HANG_S)

    holder = threading.Thread(target=hold)
    holder.start()
    assert is_held.wait(HANG_S)
    with file_lock.hold(path, wait):
        assert [file_lock.POLL_S] * 3 == waits


def test_an_error_of_wait_ends_the_waiting(path: Path) -> None:
    """A cancelled waiter leaves the lock with its holder, and leaves no hold of its own behind."""

    def cancel(_: float) -> None:
        raise Cancelled("enough")

    with file_lock.hold_at_once(path, "free"):
        with pytest.raises(Cancelled), file_lock.hold(path, cancel):
            pytest.fail("two holders")
        with pytest.raises(ModelBusy), file_lock.hold_at_once(path, "still held"):
            pytest.fail("two holders")
    with file_lock.hold(path, cancel):
        pass


def test_an_error_within_the_block_releases_the_lock(path: Path) -> None:
    """A holder that fails does not keep the lock."""
    with pytest.raises(ValueError, match="failed"), file_lock.hold_at_once(path, "free"):
        raise ValueError("failed")
    with file_lock.hold_at_once(path, "free again"):
        pass


def test_a_killed_process_holds_nothing(path: Path) -> None:
    """Another process excludes this one until it dies, however it dies."""
    command = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert b"held\n" == process.stdout.readline()
        with pytest.raises(ModelBusy), file_lock.hold_at_once(path, "held by a process"):
            pytest.fail("two holders")
        process.kill()
        process.wait(HANG_S)
    with file_lock.hold_at_once(path, "free again"):
        pass


def test_the_file_stays_and_others_may_read_it(path: Path) -> None:
    """The release removes nothing: a waiter that has the file open must not lock a file without a name."""
    with file_lock.hold_at_once(path, "free"):
        first = path.stat()
    assert (first.st_ino, 0o644) == (path.stat().st_ino, path.stat().st_mode & 0o777)


def test_it_is_a_plain_flock(path: Path) -> None:
    """Programs that lock the same file by `flock` are excluded, and exclude."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(ModelBusy), file_lock.hold_at_once(path, "locked by flock"):
            pytest.fail("two holders")


def test_a_file_system_without_flock_is_an_error(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no silent substitute that a killed holder would leave behind."""

    def flock(*_: object) -> None:
        raise OSError(errno.ENOSYS, "no flock here")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(OSError, match="no flock here"), file_lock.hold_at_once(path, "free"):
        pytest.fail("held without flock")
