"""The real controller before a stub: gunicorn and all, but no Docker. For measurements of the controller alone."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from flask import Flask

from controller.app import create_app
from controller.docker.container import Container, Usage
from controller.docker.endings import Ending
from controller.errors import StartFailed
from controller.registry import LiveRegistry, Registry
from controller.settings import ROOT
from controller.supervisor.backend import Amount, ModelFacts, OnProgress

MODEL = "stub"
APP = "bench.stubbed_controller:create()"
START_DEADLINE_S = 30.0
# No bound of the model's may be what is measured.
MODELS = f"""
defaults: {{idle_timeout: 0}}
models:
  {MODEL}: {{source: "file:///nowhere", engine: transformers, max_concurrency: 256, max_queue: 256}}
"""


class StubBackend:
    """A Docker in which one model runs for ever, at the stub's port."""

    def __init__(self, port: int) -> None:
        self._container = Container(
            id="stub", name="stub", model_id=MODEL, service=MODEL, status="running", exit_code=None,
            oom_killed=False, health=None,
            error="", port=port, started_at=None, config_hash="", image="stub", image_id="stub",
            memory_limit_bytes=1,
        )  # fmt: skip

    def is_prepared(self, model_id: str) -> bool:
        return True

    def prepare(self, model_id: str, on_progress: OnProgress, cancelled: Callable[[], bool]) -> None: ...

    def find_all(self) -> list[Container]:
        return [self._container]

    def find(self, model_id: str) -> Container | None:
        return self._container

    def inspect(self, container_id: str) -> Container | None:
        return self._container

    def ending(self, container_id: str) -> Ending:
        return Ending()

    def resume(self, model_id: str) -> Container | None:
        return None

    def up(self, model_id: str) -> Container:
        raise StartFailed("the stub runs already")

    def stop(self, container_id: str, *, grace_s: int) -> None: ...

    def logs(self, container: Container) -> list[str]:
        return []

    def usage(self, container_ids: list[str]) -> dict[str, Usage]:
        return {}

    def described(self, registry: Registry | LiveRegistry) -> dict[str, str]:
        return {}

    def write(self) -> None: ...

    def deploy(self, registry: Registry) -> None: ...

    def outdated(self) -> set[str]:
        return set()

    def working_set(self, container_id: str) -> int | None:
        return None

    def room(self, used_bytes: int) -> Amount:
        return Amount(memory_bytes=1 << 40)

    def needs(self, model_id: str, *, limit_bytes: int | None = None) -> Amount:
        return Amount(memory_bytes=0)

    def observe(self, model_id: str, used_bytes: int) -> None: ...

    def drifted(self, containers: list[Container]) -> set[str]:
        return set()

    def delete_files(self, model_id: str) -> int:
        return 0

    def facts(self, model_id: str) -> ModelFacts | None:
        return None

    def require_image(self, model_id: str) -> None: ...

    def ports(self) -> dict[str, int]:
        return {MODEL: self._container.port or 0}


def create() -> Flask:
    """What gunicorn serves; the stub's port comes by the environment of its process."""
    return create_app(backend=StubBackend(int(os.environ["BENCH_STUB_PORT"])))


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A controller and the stub behind it."""

    controller_port: int
    stub_port: int
    controller_pid: int

    def controller_cpu_s(self) -> float:
        """CPU time that the threads of the controller's worker have used so far."""
        threads = Path(f"/proc/{self.controller_pid}/task").glob("*/schedstat")
        return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9


@contextmanager
def running(app: str = APP) -> Iterator[Pair]:
    """Both, as processes of their own, within the block; `app` is what gunicorn serves."""
    stub_port = _free_port()
    with _process([sys.executable, "-m", "bench.stub_upstream", str(stub_port)], dict(os.environ)) as stub:
        _until_healthy(stub_port, stub)
        with controller_before(stub_port, app) as (controller_port, pid):
            yield Pair(controller_port=controller_port, stub_port=stub_port, controller_pid=pid)


@contextmanager
def controller_before(port: int, app: str = APP) -> Iterator[tuple[int, int]]:
    """A controller whose one model answers at this port: the controller's port, and its worker's pid."""
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
    """A port that nobody listens on, and below those that the system gives to connections meanwhile."""
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
