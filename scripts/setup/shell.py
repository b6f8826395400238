"""Runs other programs: quick questions, long commands with their log, and processes that outlive us."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from scripts.setup.console import Console, last_lines
from scripts.setup.failure import SetupError

POLL_S = 0.2
NOT_FOUND = 127
TIMED_OUT = 124


@dataclass(frozen=True)
class Answer:
    """How a quick question ended; `code` is 127 when the program is missing and 124 when it took too long."""

    code: int
    out: str = ""
    err: str = ""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a command is watched: it is stopped after `quiet_s` without output (`first_output_s` before its first).

    With `holds_lock` it keeps the set-up's lock if we are killed, so that a second run waits for it.
    """

    first_output_s: float | None = None
    quiet_s: float = 1800
    holds_lock: bool = True


USUAL = RunOptions()
Environ = Mapping[str, str] | None


class Process(Protocol):
    """A detached process that we started."""

    pid: int

    def poll(self) -> int | None: ...


class Shell(Protocol):
    """The seam that tests replace."""

    log: Path

    def which(self, program: str) -> str | None: ...

    def ask(self, *argv: str, timeout_s: float = 30) -> Answer: ...

    def run(self, *argv: str, env: Environ = None, options: RunOptions = USUAL) -> None: ...

    def spawn(self, *argv: str, log: Path, env: Environ = None, cwd: Path | None = None) -> Process: ...


class RealShell:
    """Runs programs of this machine; the output of `run` goes to `log`, its tail to the console.

    `spawned` keeps the detached processes, so that an owner which stays can wait for their ends.
    """

    def __init__(self, console: Console, log: Path, *, lock_fd: int | None = None) -> None:
        self._console = console
        self._lock_fd = lock_fd
        self.log = log
        self.spawned: list[subprocess.Popen[bytes]] = []

    def which(self, program: str) -> str | None:
        """Return the program's path; search the system's folders even if the user's PATH lacks them."""
        return shutil.which(program, path=os.environ.get("PATH", os.defpath) + ":/usr/local/sbin:/usr/sbin:/sbin")

    def ask(self, *argv: str, timeout_s: float = 30) -> Answer:
        """Run something quick and return its output; never raises for the program's failure."""
        try:
            result = subprocess.run(
                argv, capture_output=True, timeout=timeout_s, stdin=subprocess.DEVNULL, text=True, errors="replace"
            )
        except OSError as error:
            return Answer(NOT_FOUND, err=str(error))
        except subprocess.TimeoutExpired:
            return Answer(TIMED_OUT, err=f"no answer within {timeout_s:.0f} s")
        return Answer(result.returncode, result.stdout, result.stderr)

    def run(self, *argv: str, env: Environ = None, options: RunOptions = USUAL) -> None:
        """Run to the end or raise SetupError with the exit code."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            log.write(f"$ {shlex.join(argv)}\n".encode())
            log.flush()
            start = log.tell()
            lock_fds = (self._lock_fd,) if options.holds_lock and self._lock_fd is not None else ()
            try:
                process = subprocess.Popen(
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **(env or {})},
                    pass_fds=lock_fds,
                )
            except OSError as error:
                raise SetupError(f"{argv[0]} cannot be run: {error.strerror}", exit_code=1, log=self.log) from error
        self._console.begin_command()
        try:
            code = self._watch(process, start, options)
        finally:
            self._console.end_command()
            _end(process)
        if code:
            raise SetupError(f"`{shorten(argv)}` ended with exit code {code}", exit_code=code, log=self.log)

    def _watch(self, process: subprocess.Popen[bytes], start: int, options: RunOptions) -> int:
        size, changed_at = start, time.monotonic()
        while True:
            try:
                return process.wait(timeout=POLL_S)
            except subprocess.TimeoutExpired:
                pass
            if self.log.stat().st_size != size:
                size, changed_at = self.log.stat().st_size, time.monotonic()
            limit_s = options.quiet_s
            if options.first_output_s is not None and size == start:
                limit_s = options.first_output_s
            if time.monotonic() - changed_at > limit_s:
                raise SetupError(f"`{shorten(process.args)}` said nothing for {limit_s:.0f} s", log=self.log)
            self._console.show_progress("".join(last_lines(self.log, 1, start=start)))

    def spawn(self, *argv: str, log: Path, env: Environ = None, cwd: Path | None = None) -> Process:
        """Start a process in its own session, so that neither Ctrl-C nor our end reaches it."""
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as out:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})},
                cwd=cwd,
                start_new_session=True,
            )
        self.spawned.append(process)
        return process


def _end(process: subprocess.Popen[bytes]) -> None:
    """Make sure that the process is gone: after Ctrl-C, which it received too, it gets time to clean up."""
    for stop in (process.terminate, process.kill):
        if process.poll() is not None:
            return
        stop()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            continue


def shorten(argv: object) -> str:
    """Return the command as a person would name it: the program and its first words."""
    words = [str(word) for word in argv] if isinstance(argv, (list, tuple)) else str(argv).split()
    return " ".join([Path(words[0]).name, *words[1:4]]) + (" …" if len(words) > 4 else "")
