"""A whole Orchestrar for a test: its own folders, project, ports and gunicorn, all gone afterwards."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import requests

from controller.settings import ROOT
from tests.promises.table import NeverUp

START_DEADLINE_S = 30.0
CONFIG = ROOT / "controller" / "server" / "gunicorn_conf.py"
FAKE_IMAGE = "orchestrar-test-fake:latest"

handed_out: set[int] = set()


def docker(*arguments: str, check: bool = True, cwd: Path | None = None) -> str:
    """Run docker as a user would; returns what it printed."""
    result = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=120, cwd=cwd, check=False)
    assert result.returncode == 0 or not check, f"docker {' '.join(arguments)}: {result.stderr}"
    return result.stdout.strip()


def docker_with_a_log(folder: Path) -> str:
    """Return a PATH on which every docker command adds a line to the folder's `calls`."""
    real = shutil.which("docker")
    (folder / "docker").write_text(f'#!/bin/sh\necho "$*" >> {folder}/calls\nexec {real} "$@"\n')
    (folder / "docker").chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def free_ports(count: int) -> int:
    """Return the first of `count` consecutive free ports outside the ephemeral range.

    No other test of this run gets them, since each worker has its share: most are used only later.
    """
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    # A worker that replaces a crashed one has a new number, and the crashed one's share.
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % workers
    share = 20_000 // workers
    for _ in range(200):
        first = 10_000 + worker * share + random.randrange(share - count)
        ports = range(first, first + count)
        if not handed_out.isdisjoint(ports):
            continue
        try:
            for port in ports:
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        handed_out.update(ports)
        return first
    raise AssertionError("no free ports")


def until(what: str, condition: Any, deadline_s: float = 30.0) -> Any:
    """Poll until the condition's value is true; returns it."""
    end = time.monotonic() + deadline_s
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < end, f"not within {deadline_s} s: {what}"
        time.sleep(0.05)


class House:
    """A controller under gunicorn beside the developer's own, on the real engine."""

    projects: ClassVar[list[str]] = []

    def __init__(self, folder: Path, models: str, *, environ: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.project = f"orchestrar-test-{random.randrange(16**8):08x}"
        self.projects.append(self.project)
        self.port = free_ports(16)
        self.url = f"http://127.0.0.1:{self.port}"
        self.compose_dir = folder / "compose"
        self.data_dir = folder / "data"
        self.log_file = folder / "controller.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._was_up = False
        self._environ = dict(environ or {})
        for folder_path in (self.compose_dir, self.data_dir):
            folder_path.mkdir(parents=True, exist_ok=True)
        self.write_models(models)

    def write_models(self, text: str) -> None:
        (self.folder / "models.yaml").write_text(text, encoding="utf-8")

    def environ(self) -> dict[str, str]:
        return {
            **os.environ,
            "ORCHESTRAR_CONFIG": str(self.folder / "models.yaml"),
            "ORCHESTRAR_DATA": str(self.data_dir),
            "ORCHESTRAR_COMPOSE_DIR": str(self.compose_dir),
            "ORCHESTRAR_PROJECT": self.project,
            "ORCHESTRAR_PORT": str(self.port),
            "ORCHESTRAR_FIRST_MODEL_PORT": str(self.port + 1),
            "ORCHESTRAR_STOP_GRACE_S": "5",
            "XDG_STATE_HOME": str(self.folder / "state"),
            **self._environ,
        }

    @property
    def pid(self) -> int:
        """gunicorn's master."""
        assert self._process is not None
        return self._process.pid

    def launch(self, app: str = "controller.app:create_app()", config: Path = CONFIG) -> subprocess.Popen[bytes]:
        """Start gunicorn without waiting for it; another app, or configuration, is ours with a fault added."""
        command = [sys.executable, "-m", "gunicorn", "--config", str(config)]
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, app],
                cwd=ROOT,
                env=self.environ(),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return self._process

    def start(self, app: str = "controller.app:create_app()", config: Path = CONFIG) -> None:
        """Start gunicorn and wait until it serves. Raises NeverUp if a first start fails, later an AssertionError."""
        process = self.launch(app, config)

        def answers() -> bool:
            assert process.poll() is None, self.log_file.read_text()
            try:
                return self.get("/health").ok
            except requests.ConnectionError:
                return False

        try:
            until("the controller answers", answers, START_DEADLINE_S)
        except AssertionError as exc:
            if self._was_up:
                raise
            raise NeverUp(str(exc)) from exc
        self._was_up = True

    def refuses(self) -> bool:
        """Tell whether a new connection is refused."""
        try:
            socket.create_connection(("127.0.0.1", self.port), 2).close()
        except ConnectionRefusedError:
            return True
        return False

    def begin_to_end(self, name: str = "TERM") -> subprocess.Popen[bytes]:
        """Send a signal that ends the controller, and return its process without waiting."""
        assert self._process is not None
        process, self._process = self._process, None
        process.send_signal(signal.Signals[f"SIG{name}"])
        return process

    def preparing(self, model_id: str) -> list[str]:
        """Return the ids of the containers that are preparing the model now."""
        filters = [f"label=com.docker.compose.project={self.project}", f"label=orchestrar.prepare={model_id}"]
        return docker("ps", "-q", "--no-trunc", *(x for f in filters for x in ("--filter", f))).split()

    def terminate(self) -> int:
        """Send SIGTERM, wait, and return the exit code."""
        assert self._process is not None
        self._process.terminate()
        code = self._process.wait(30)
        self._process = None
        return code

    def await_death(self) -> int:
        """Wait for the end of the controller, which the test has caused, and return its exit code."""
        assert self._process is not None
        code = self._process.wait(30)
        self._process = None
        return code

    def kill(self) -> None:
        """Send SIGKILL to gunicorn's master and worker at once, as if the machine had lost them."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(30)
        self._process = None

    def kill_master(self) -> None:
        """Send SIGKILL to the master alone, the process whose pid a user knows."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(30)
        self._process = None

    def worker_pid(self) -> int:
        """Return the pid of gunicorn's worker, which serves."""
        assert self._process is not None
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text()
        (worker,) = map(int, children.split())
        return worker

    def memory_mb(self, *, peak: bool = False) -> float:
        """Return how much memory the controller's worker holds, or the most that it has held."""
        name = "VmHWM" if peak else "VmRSS"
        status = Path(f"/proc/{self.worker_pid()}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(name)) / 1024

    def docker_commands(self) -> dict[int, str]:
        """Return the docker commands that this house's controller runs or has not yet reaped: pid → command line."""
        commands = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                words = (folder / "cmdline").read_bytes().split(b"\0")
                mine = f"ORCHESTRAR_PROJECT={self.project}\0".encode() in (folder / "environ").read_bytes()
            except OSError:
                continue
            command = b" ".join(words).decode(errors="replace")
            if mine and words[0].rsplit(b"/", 1)[-1] in (b"docker", b"timeout", b"docker-compose"):
                commands[int(folder.name)] = command
        return commands

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def close(self) -> None:
        """End the controller and remove every container, network and volume of the project."""
        if self._process is not None and self._process.poll() is None:
            self.kill()
        # A docker command outlives the controller that is killed during it, and may still make or remove a container.
        deadline = time.monotonic() + START_DEADLINE_S
        while (commands := self.docker_commands()) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not commands, f"still running: {commands}"
        label = f"label=com.docker.compose.project={self.project}"
        for kind, flags in (("container", ["-aq"]), ("network", ["-q"]), ("volume", ["-q"])):
            object_ids = docker(kind, "ls", *flags, "--filter", label).split()
            if object_ids:
                docker(kind, "rm", "-f", *object_ids) if kind != "network" else docker(kind, "rm", *object_ids)
        shutil.rmtree(self.folder, ignore_errors=True)

    def get(self, path: str, **kwargs: Any) -> requests.Response:
        return requests.get(self.url + path, timeout=60, **kwargs)

    def post(self, path: str, body: Any, **kwargs: Any) -> requests.Response:
        kwargs.setdefault("timeout", 120)
        return requests.post(self.url + path, data=json.dumps(body), **kwargs)

    def ask(self, model_id: str, prompt: Any, **fields: Any) -> requests.Response:
        """Send `POST /inference`; a prompt that is not text is a script for the fake model."""
        text = prompt if isinstance(prompt, str) else json.dumps(prompt)
        streaming = bool(fields.get("stream"))
        return self.post("/inference", {"model_id": model_id, "prompt": text, **fields}, stream=streaming)

    def status(self, model_id: str) -> dict[str, Any]:
        rows = self.get("/status").json()["models"]
        row: dict[str, Any] = next(row for row in rows if row["id"] == model_id)
        return row

    def containers(self, model_id: str) -> list[str]:
        """Return the ids of the model's running containers."""
        filters = [f"label=com.docker.compose.project={self.project}", f"label=orchestrar.model={model_id}"]
        return docker("ps", "-q", "--no-trunc", *(x for f in filters for x in ("--filter", f))).split()

    def compose(self, *arguments: str) -> str:
        """Run `docker compose` in the compose folder, as the README says."""
        return docker("compose", *arguments, cwd=self.compose_dir)

    @contextmanager
    def counted_events(self, event: str) -> Iterator[list[str]]:
        """Yield a list that holds, after the block, the names of the project's containers that had this event in it."""
        command = [
            "docker", "events", "--since", f"{time.time():.6f}", "--filter", f"event={event}",
            "--filter", f"label=com.docker.compose.project={self.project}",
            "--format", '{{.TimeNano}} {{.Actor.ID}} {{index .Actor.Attributes "name"}}',
        ]  # fmt: skip
        names: list[str] = []
        # Docker remembers only its last 256 events, so the others are read as they come.
        with tempfile.TemporaryFile("w+") as output, subprocess.Popen(command, stdout=output) as follower:
            try:
                yield names
            finally:
                follower.terminate()
            lines = set(docker(*command[1:], "--until", f"{time.time():.6f}").splitlines())
            follower.wait(30)
            output.seek(0)
            lines |= {line for line in output.read().splitlines() if line.count(" ") == 2}
        names.extend(line.rpartition(" ")[2] for line in sorted(lines))


def fake_models(folder: Path, models: Mapping[str, Mapping[str, Any]], **top: Any) -> str:
    """Return a models.yaml of fake models with these top-level keys; a model with `gguf: true` is prepared first.

    A key that is None is left out.
    """
    model_folder = folder / "served"
    model_folder.mkdir(parents=True, exist_ok=True)
    (model_folder / "config.json").write_text("{}")
    (model_folder / "model.safetensors").write_bytes(b"\0" * 64)
    (folder / "model.gguf").write_bytes(b"GGUF" + b"\0" * 64)
    entries = {}
    for model_id, keys in models.items():
        values = dict(keys)
        source = folder / "model.gguf" if values.pop("gguf", False) else model_folder
        resources = {"cpus": 1, "memory": "128m"}
        entry = {"source": source.as_uri(), "image": FAKE_IMAGE, "resources": resources, **values}
        entries[model_id] = {key: value for key, value in entry.items() if value is not None}
    return json.dumps(
        {"defaults": {"idle_timeout": "1h", "start_timeout": "20s"}, **top, "models": entries}, ensure_ascii=False
    )
