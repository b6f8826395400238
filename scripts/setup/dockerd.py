"""Starts an installed engine, through the init system if there is one."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from scripts.setup.console import last_lines
from scripts.setup.failure import SetupError
from scripts.setup.shell import Process, RunOptions
from scripts.setup.steps import Site

START_S = 90.0


def start_dockerd(
    site: Site,
    *,
    answers: Callable[[], bool],
    log: Path,
    pid_file: Path,
    arguments: tuple[str, ...] = (),
) -> None:
    """Start the engine and return when it answers; raises SetupError with the end of the engine's log."""
    process: Process | None = None
    if _is_dockerd(pid_file):
        site.say("an engine is already starting; waiting for it")
    elif site.host.init == "systemd":
        site.say("starting it: systemctl start docker")
        site.shell.run("systemctl", "start", "docker", options=RunOptions(holds_lock=False))
    elif site.host.init == "service":
        site.say("starting it: service docker start")
        site.shell.run("service", "docker", "start", options=RunOptions(holds_lock=False))
    else:
        site.say(f"starting dockerd in the background, since no init system runs here; its log: {log}")
        # dockerd refuses to start if the file names any living process, even an unrelated one.
        pid_file.unlink(missing_ok=True)
        process = site.shell.spawn(site.shell.which("dockerd") or "dockerd", *arguments, log=log, cwd=Path("/"))
    _wait(site, answers, process, log)


def _wait(site: Site, answers: Callable[[], bool], process: Process | None, log: Path) -> None:
    deadline = time.monotonic() + START_S
    site.console.begin_command()
    try:
        while not answers():
            if process is not None and process.poll() is not None:
                raise SetupError(f"dockerd ended with exit code {process.poll()} right after its start", log=log)
            if time.monotonic() > deadline:
                raise SetupError(
                    f"the Docker engine was started and does not answer after {START_S:.0f} s; look at its log "
                    "(with systemd: journalctl -u docker)",
                    log=log if process is not None else None,
                )
            site.console.show_progress("".join(last_lines(log, 1)) if process is not None else "")
            time.sleep(0.2)
    finally:
        site.console.end_command()


def _is_dockerd(pid_file: Path) -> bool:
    """Tell whether the pid file names a living dockerd."""
    try:
        pid = int(pid_file.read_text(encoding="utf-8").strip())
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").strip() == "dockerd"
    except (OSError, ValueError):
        return False
