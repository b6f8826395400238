"""Long commands of other programs: their lines, their exit codes and their ends."""

from __future__ import annotations

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from controller.system.commands import follow
from tests.fakes import HANG_S


def python(code: str) -> list[str]:
    return [sys.executable, "-u", "-c", code]


def test_the_lines_come_in_order_with_the_exit_code() -> None:
    """Of both outputs, to the last one."""
    lines: list[str] = []
    code = follow(
        python("import sys; print('one'); print('two', file=sys.stderr); sys.exit(3)"),
        on_line=lines.append,
        cancelled=lambda: False,
    )
    assert (3, ["one\n", "two\n"]) == (code, lines)


def test_a_silent_command_is_ended() -> None:
    """A command that writes nothing ends soon after it is cancelled, by a request that it may answer."""
    is_running, is_wanted, lines = threading.Event(), threading.Event(), []
    is_wanted.set()
    code = (
        "import os, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(print('told')))\n"
        "print(os.getpid())\n"
        "time.sleep(600)\n"
    )

    def note(line: str) -> None:
        lines.append(line)
        is_running.set()

    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(
            follow, python(code), on_line=note, cancelled=lambda: not is_wanted.is_set(), is_apart=True
        )
        assert is_running.wait(HANG_S)
        assert os.getpgid(int(lines[0])) == int(lines[0])
        is_wanted.clear()
        assert result.result(HANG_S) is None
    with pytest.raises(ProcessLookupError):
        os.kill(int(lines[0]), 0)


def test_a_program_that_is_not_there_is_an_os_error() -> None:
    """The caller says what it wanted it for."""
    with pytest.raises(OSError, match="no-such-program"):
        follow(["no-such-program"], on_line=lambda _: None, cancelled=lambda: False)
