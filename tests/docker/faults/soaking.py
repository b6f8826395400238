"""What a soak does: clients ask, leave and read, and one fault follows the other."""

from __future__ import annotations

import json
import random
import signal
import socket
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import requests
from urllib3.exceptions import ReadTimeoutError

from tests.docker.docker_gate import Gate
from tests.docker.faults.streams import events
from tests.docker.house import House, docker, fake_models

CLIENTS = 6
# A request that waits longer than this for anything counts as hung.
HANG_S = 90.0
# The errors that clients may get from broken, stopped, paused or evicted models, and while the engine is away.
EXPECTED = {
    "model_died", "model_stopping", "backing_off", "start_failed", "insufficient_memory", "overloaded",
    "deadline_exceeded", "upstream_timeout", "model_paused", "docker_unavailable",
}  # fmt: skip
MODELS = ["a", "b", "c"]
# Room for two of the three.
TOP = {
    "memory_budget": "200m",
    "defaults": {"idle_timeout": "3s", "start_timeout": "20s", "min_residency": "1s", "max_wait": "20s"},
}
HALF_A_HEAD = b"POST /inference HTTP/1.1\r\nHost: 127"


class Faults:
    """Causes faults and counts them. Its own Docker commands bypass the gate, which only it shuts."""

    def __init__(self, house: House, gate: Gate) -> None:
        self.house = house
        self.gate = gate
        self.models = MODELS
        self.counts: Counter[str] = Counter()
        self._over = threading.Event()
        self._edits = 0

    def run(self, rng: random.Random, over: threading.Event) -> None:
        """Cause one fault after the other until it is over."""
        self._over = over
        to_containers: dict[str, Callable[[str, random.Random], object]] = {
            "docker kill": lambda container_id, _: docker("kill", container_id, check=False),
            "docker stop": lambda container_id, _: docker("stop", "--time", "2", container_id, check=False),
            "docker rm": lambda container_id, _: docker("rm", "--force", container_id, check=False),
            "docker pause": self._pause,
        }
        to_models: dict[str, Callable[[str, random.Random], object]] = {
            "POST /stop": lambda model_id, _: self.house.post("/stop", {"model_id": model_id}, timeout=HANG_S),
            "crash in an answer": lambda model_id, rng: self._ask(model_id, tokens=3, crash_after=rng.randint(0, 2)),
            "hang": lambda model_id, _: self._ask(model_id, hang=True),
            "out of memory": lambda model_id, _: self._ask(model_id, eat_mb=300),
            "answer without end": lambda model_id, _: self._ask(model_id, hostile="line without end"),
            "slow sender": self._send_slowly,
            "stalled reader": self._read_nothing,
            "changed entry": lambda model_id, _: self._write(model_id),
            "SIGHUP": lambda *_: self.house.signal(signal.SIGHUP),
            "broken models.yaml": lambda *_: self._break_file(),
            "engine away": lambda _, rng: self._shut(rng.uniform(0.5, 4)),
        }
        while not over.wait(rng.uniform(0.5, 4)):
            model_id, what = rng.choice(MODELS), rng.choice([*to_containers, *to_models])
            containers = self.house.containers(model_id)
            if what in to_models:
                to_models[what](model_id, rng)
            elif containers:
                to_containers[what](containers[0], rng)
            else:
                continue
            self.counts[what] += 1
        self._write()

    def _ask(self, model_id: str, **script: object) -> None:
        with suppress(requests.RequestException):
            self.house.ask(model_id, script)

    def _pause(self, container_id: str, rng: random.Random) -> None:
        docker("pause", container_id, check=False)
        self._over.wait(rng.uniform(0.5, 4))
        docker("unpause", container_id, check=False)

    def _send_slowly(self, _: str, rng: random.Random) -> None:
        with socket.create_connection(("127.0.0.1", self.house.port)) as sock:
            for byte in HALF_A_HEAD:
                with suppress(OSError):
                    sock.send(bytes([byte]))
                self._over.wait(rng.uniform(0, 0.2))

    def _read_nothing(self, model_id: str, rng: random.Random) -> None:
        with self.house.ask(model_id, {"tokens": 3000}, stream=True):
            self._over.wait(rng.uniform(0.5, 4))

    def _write(self, changed_id: str | None = None) -> None:
        self._edits += 1
        models: dict[str, dict[str, object]] = {model_id: {} for model_id in MODELS}
        if changed_id is not None:
            models[changed_id]["env"] = {"FAKE_EDIT": str(self._edits)}
        self.house.write_models(fake_models(self.house.folder, models, **TOP))

    def _break_file(self) -> None:
        self.house.write_models("models: [")
        self._over.wait(3)
        self._write()

    def _shut(self, for_s: float) -> None:
        self.gate.shut()
        self._over.wait(for_s)
        self.gate.open()


class Soak:
    """Runs clients and faults, each thread with its own random sequence, until `over`."""

    def __init__(self, house: House, faults: Faults, seed: int) -> None:
        self.house = house
        self.faults = faults
        self.seed = seed
        self.over = threading.Event()
        self.answers: Counter[str] = Counter()
        self.wrong: list[str] = []
        # The memory of the controller's worker at the end of each quarter.
        self.memory_mb: list[float] = []
        self._lock = threading.Lock()

    def run(self, minutes: float) -> None:
        with ThreadPoolExecutor(CLIENTS + 1) as pool:
            futures = [pool.submit(self._client, random.Random(f"{self.seed}.{n}")) for n in range(CLIENTS)]
            futures.append(pool.submit(self.faults.run, random.Random(f"{self.seed}.faults"), self.over))
            for _ in range(4):
                self.over.wait(minutes * 60 / 4)
                self.memory_mb.append(self.house.memory_mb())
            self.over.set()
            for future in futures:
                future.result(2 * HANG_S)

    def _client(self, rng: random.Random) -> None:
        ways = [self._whole, self._read_stream, self._leaves, self._leaves_early]
        while not self.over.is_set():
            way = rng.choices(ways, weights=[10, 10, 5, 3])[0]
            try:
                result = way(rng, rng.choice(self.faults.models))
            except requests.RequestException as exc:
                result = f"no answer: {exc!r}"[:200]
                self.wrong.append(f"{way.__name__} {result}")
            with self._lock:
                self.answers[result] += 1
            self.over.wait(rng.choice([0, 0, 0.05, rng.uniform(0, 1)]))

    def _whole(self, rng: random.Random, model_id: str) -> str:
        word = f"{rng.random()} "
        response = self._ask(model_id, {"tokens": 2, "delay_s": 0.02, "echo": word})
        if response.status_code == 200 and response.json()["text"] != word * 2:
            self.wrong.append(f"another client's answer: {response.text}")
        return self._result_of(response)

    def _read_stream(self, rng: random.Random, model_id: str) -> str:
        script = {"tokens": rng.randint(1, 30), "delay_s": 0.03}
        with self._ask(model_id, script, stream=True) as response:
            if response.status_code != 200:
                return self._result_of(response)
            *_, last = [None, *events(response)]
        if last is None or ("error" not in last and not last.get("done")):
            self.wrong.append(f"a stream ended with {last}")
        return "200" if last and last.get("done") else self._check_code((last or {}).get("error", {}).get("code"))

    def _leaves(self, rng: random.Random, model_id: str) -> str:
        with self._ask(model_id, {"tokens": 1000, "delay_s": 0.03}, stream=True) as response:
            if response.status_code != 200:
                return self._result_of(response)
            lines = response.iter_lines()
            for _ in range(rng.randint(0, 5)):
                next(lines, None)
            return "left"

    def _leaves_early(self, rng: random.Random, model_id: str) -> str:
        body = {"model_id": model_id, "prompt": json.dumps({"prefill_s": 30})}
        try:
            return self._result_of(self.house.post("/inference", body, timeout=rng.uniform(0.05, 1)))
        except requests.Timeout:
            return "left"
        except requests.ConnectionError as exc:
            # So the package reports a time-out within an answer's body.
            if exc.args and isinstance(exc.args[0], ReadTimeoutError):
                return "left"
            raise

    def _ask(self, model_id: str, script: Mapping[str, object], *, stream: bool = False) -> requests.Response:
        body = {"model_id": model_id, "prompt": json.dumps(script), "stream": stream}
        return self.house.post("/inference", body, stream=stream, timeout=HANG_S)

    def _result_of(self, response: requests.Response) -> str:
        return "200" if response.status_code == 200 else self._check_code(response.json()["error"]["code"])

    def _check_code(self, code: object) -> str:
        if code not in EXPECTED:
            self.wrong.append(f"an unexplained error: {code}")
        return str(code)
