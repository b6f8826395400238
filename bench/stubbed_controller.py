"""The real controller under gunicorn, before a stub and without Docker: for measurements of the controller alone."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from flask import Flask

from controller.app import create_app
from controller.settings import ROOT, Settings
from tests.fake_controller import make_controller
from tests.fakes import FakeBackend, make_container

MODEL = "stub"
APP = "bench.stubbed_controller:create()"
START_DEADLINE_S = 30.0
# The model's own limits must not be what is measured.
MODELS = f"""
defaults: {{idle_timeout: 0}}
models:
  {MODEL}: {{source: "file:///nowhere", engine: transformers, max_concurrency: 256, max_queue: 256}}
"""


def create() -> Flask:
    """Return what gunicorn serves: a controller whose one model runs for ever, at the stub's port.

    The environment of gunicorn's process has the port.
    """
    backend = FakeBackend()
    backend.models = [MODEL]
    backend.containers = {"stub": make_container(MODEL, id="stub", port=int(os.environ["BENCH_STUB_PORT"]))}
    return create_app(make_controller(Settings.from_environ(os.environ), backend=backend))


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A controller and the stub behind it."""

    controller_port: int
    stub_port: int
    controller_pid: int

    def controller_cpu_s(self) -> float:
        """Return the CPU time that the threads of the controller's worker have used so far."""
        threads = Path(f"/proc/{self.controller_pid}/task").glob("*/schedstat")
        return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9


@contextmanager
def running(app: str = APP) -> Iterator[Pair]:
    """Run both, each as a process, within the block; `app` is what gunicorn serves."""
    stub_port = _free_port()
    with _process([sys.executable, "-m", "bench.stub_upstream", str(stub_port)], dict(os.environ)) as stub:
        _until_healthy(stub_port, stub)
        with controller_before(stub_port, app) as (controller_port, pid):
            yield Pair(controller_port=controller_port, stub_port=stub_port, controller_pid=pid)


@contextmanager
def controller_before(port: int, app: str = APP) -> Iterator[tuple[int, int]]:
    """Run a controller whose one model answers at this port; give the controller's port and its worker's pid."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        (folder / "models.yaml").write_text(MODELS)
        own_port = _free_port()
        environ = {
            **os.environ,
            "BENCH_STUB_PORT": str(port),
            "ORCHESTRAR_PORT": str(own_port),
            "ORCHESTRAR_CONFIG": str(folder / "models.yaml"),
            "ORCHESTRAR_DATA": str(folder),
            "ORCHESTRAR_COMPOSE_DIR": str(folder),
            "ORCHESTRAR_STOP_GRACE_S": "3",
            "ORCHESTRAR_LOG_LEVEL": "warning",
            "XDG_STATE_HOME": str(folder),
        }
        config = str(ROOT / "controller" / "server" / "gunicorn_conf.py")
        command = [sys.executable, "-m", "gunicorn", "--config", config, app]
        master = stack.enter_context(_process(command, environ))
        _until_healthy(own_port, master)
        children = Path(f"/proc/{master.pid}/task/{master.pid}/children").read_text().split()
        yield own_port, int(children[0])


@contextmanager
def _process(command: list[str], environ: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command, cwd=ROOT, env=environ)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _free_port() -> int:
    """Return a free port, below those that the system gives to outgoing connections."""
    while True:
        port = random.randrange(10_000, 30_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def _until_healthy(port: int, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + START_DEADLINE_S
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
        except OSError as exc:
            if time.monotonic() > end or process.poll() is not None:
                raise SystemExit(f"{process.args!r} does not answer on port {port}: {exc}") from exc
            time.sleep(0.05)
        else:
            return
