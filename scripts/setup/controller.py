"""Starts, finds and stops the controller's process."""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from scripts.setup.console import last_lines
from scripts.setup.failure import SetupError
from scripts.setup.layout import Layout
from scripts.setup.server_image import SOURCES
from scripts.setup.stamps import read_stamp, text_hash, tree_hash, write_stamp
from scripts.setup.steps import Site

START_S = 60.0
FREE_PORT_S = 5.0
# With ORCHESTRAR_STOP_MODELS_ON_EXIT its models get 10 s of it.
STOP_MARGIN_S = 20.0


def gunicorn_command(layout: Layout) -> list[str]:
    """Return the server's command line; by the path of its pid file we also recognise our own process."""
    config = layout.root / "controller" / "server" / "gunicorn_conf.py"
    return [
        str(layout.venv / "bin" / "gunicorn"), "--config", str(config),
        "--pid", str(layout.pid_file), "controller.app:create_app()",
    ]  # fmt: skip


def controller_pid(layout: Layout) -> int | None:
    """Return the pid of this data folder's running controller, or None; a recycled pid is not mistaken for it.

    If the pid file is gone, perhaps with the data folder, it is found by its command line.
    """
    try:
        pid = int(layout.pid_file.read_text(encoding="utf-8").strip())
    except (OSError, ValueError):
        pid = 0
    if is_controller(pid, layout):
        return pid
    pids = [int(entry.name) for entry in Path("/proc").glob("[0-9]*") if is_controller(int(entry.name), layout)]
    # gunicorn's worker has the same command line as its master, which is the one whose parent is not among them.
    return next((pid for pid in sorted(pids) if _parent(pid) not in pids), None)


def _parent(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return 0
    return int(status.rpartition(")")[2].split()[1])


def is_controller(pid: int, layout: Layout) -> bool:
    """Tell whether that process was started with our pid file."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return os.fsencode(layout.pid_file) in words


def answers(layout: Layout) -> bool:
    """Tell whether GET /health at the controller's address is answered with 200."""
    connection = http.client.HTTPConnection(layout.host, layout.port, timeout=2)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def port_is_free(layout: Layout) -> bool:
    """Tell whether the controller could listen at its address now."""
    family = socket.AF_INET6 if ":" in layout.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((layout.host, layout.port))
        except OSError:
            return False
    return True


@dataclass(frozen=True)
class ControllerStep:
    """The controller runs in the background and answers."""

    site: Site
    name: str = "controller"
    slug: str = "controller"

    def already_there(self) -> str | None:
        layout = self.site.layout
        pid = controller_pid(layout)
        current = pid is not None and read_stamp(layout.started_stamp) == self._fingerprint()
        return f"pid {pid} answers" if current and answers(layout) else None

    def _fingerprint(self) -> str:
        """Return a hash of what a controller is started from: its code, its settings, models.yaml."""
        layout, environ = self.site.layout, self.site.environ
        settings = sorted(
            f"{name}={value}" for name, value in environ.items() if name.startswith(("ORCHESTRAR_", "HF_"))
        )
        models = Path(environ.get("ORCHESTRAR_CONFIG") or layout.root / "config" / "models.yaml")
        models_text = models.read_text(encoding="utf-8", errors="replace") if models.is_file() else ""
        code = (tree_hash(layout.root / folder) for folder in ("controller", "templates"))
        return text_hash(models_text, *settings, *code)

    def do(self) -> None:
        site, layout = self.site, self.site.layout
        pid = controller_pid(layout)
        if pid is not None and read_stamp(layout.started_stamp) == self._fingerprint():
            site.say(f"pid {pid} is already running; waiting until it answers")
            self._wait(pid, log_start=0)
            return
        if pid is not None:
            site.say(f"models.yaml, a setting or the code changed since pid {pid} began; restarting it, models stay up")
            stop_controller(site)
        make_way(site)
        write_stamp(layout.started_stamp, self._fingerprint())
        log_start = layout.controller_log.stat().st_size if layout.controller_log.exists() else 0
        process = site.shell.spawn(
            *gunicorn_command(layout),
            log=layout.controller_log,
            cwd=layout.root,
            env={"ORCHESTRAR_DATA": str(layout.data)},
        )
        site.say(f"pid {process.pid}, log {layout.controller_log}")
        self._wait(process.pid, log_start=log_start, exit_code=process.poll)

    def _wait(self, pid: int, *, log_start: int, exit_code: Callable[[], int | None] | None = None) -> None:
        layout, console = self.site.layout, self.site.console
        deadline = time.monotonic() + START_S
        console.begin_command()
        try:
            while not (answers(layout) and controller_pid(layout) == pid):
                code = exit_code() if exit_code else None if is_controller(pid, layout) else 1
                if code is not None:
                    # A negative code names a signal; and zero is no success for a server.
                    raise SetupError(_last_words(layout, log_start), exit_code=code if code > 0 else 1)
                if time.monotonic() > deadline:
                    raise SetupError(
                        f"the controller (pid {pid}) does not answer at http://{layout.address}/health after "
                        f"{START_S:.0f} s; if it was started with another address: make down, then run this again",
                        log=layout.controller_log,
                    )
                console.show_progress("".join(last_lines(layout.controller_log, 1, start=log_start)))
                time.sleep(0.1)
        finally:
            console.end_command()


def _last_words(layout: Layout, log_start: int) -> str:
    words = "\n  ".join(last_lines(layout.controller_log, 20, start=log_start))
    return f"the controller ended while starting (whole log: {layout.controller_log}); its last lines:\n  {words}"


def make_way(site: Site) -> None:
    """Prepare a start while no controller runs: wait for a free port (else SetupError), remove a stale pid file.

    A controller that just died gets time to release the port. gunicorn would take a stale file's pid for alive if
    another process has that pid now, or if the dead one is still a zombie.
    """
    layout = site.layout
    layout.pid_file.parent.mkdir(parents=True, exist_ok=True)
    layout.pid_file.unlink(missing_ok=True)
    deadline = time.monotonic() + FREE_PORT_S
    while not port_is_free(layout):
        if time.monotonic() > deadline:
            raise SetupError(
                f"another program listens on {layout.address}; stop it, or choose another port: "
                f"ORCHESTRAR_PORT={layout.port + 10} make up"
            )
        time.sleep(0.2)


def stop_controller(site: Site) -> bool:
    """Send SIGTERM, and SIGKILL after the grace period; return False if no controller runs."""
    layout = site.layout
    pid = controller_pid(layout)
    if pid is None:
        return False
    # In the background it has its own session; in the foreground make belongs to its group as well.
    in_own_group = os.getpgid(pid) == pid
    os.kill(pid, signal.SIGTERM)
    grace_s = layout.stop_grace_s + STOP_MARGIN_S
    deadline = time.monotonic() + grace_s
    site.console.begin_command()
    was_killed = False
    while is_controller(pid, layout):
        if time.monotonic() > deadline:
            if was_killed:
                raise SetupError(
                    f"the controller (pid {pid}) cannot be killed; inspect it with: ps -o stat,wchan -p {pid}"
                )
            site.say(f"pid {pid} did not stop within {grace_s:.0f} s; killing it")
            (os.killpg if in_own_group else os.kill)(pid, signal.SIGKILL)
            was_killed, deadline = True, time.monotonic() + STOP_MARGIN_S
        site.console.show_progress("waiting for its requests to end")
        time.sleep(0.1)
    site.console.end_command()
    layout.pid_file.unlink(missing_ok=True)
    return True


def remove_build_output(layout: Layout) -> list[Path]:
    """Remove what the set-up can make again (`make clean`), and return it; data, weights and images stay."""
    caches = (".venv", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".hypothesis", "runner/wheelhouse")
    paths = [layout.root / name for name in caches if (layout.root / name).exists()]
    paths += sorted(layout.servers.glob(f"*/{SOURCES}"))
    for path in paths:
        shutil.rmtree(path)
    return paths
