"""A soak: random faults for a while, after which nothing has grown. `make soak` runs it; `make test` does not."""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest
import requests

from tests.docker.conftest import Build
from tests.docker.faults.streams import events
from tests.docker.house import House, docker, until

pytestmark = [pytest.mark.soak, pytest.mark.timeout(0)]

MODELS = ["a", "b", "c"]
CLIENTS = 6
# A request that waits longer than this for anything counts as hung.
HANG_S = 90.0
# What a model that is broken, stopped, paused or evicted on purpose may cost its clients.
EXPECTED = {
    "model_died", "model_stopping", "backing_off", "start_failed", "insufficient_memory", "overloaded",
    "deadline_exceeded", "upstream_timeout", "model_paused",
}  # fmt: skip


@dataclass(frozen=True)
class Held:
    """What the controller (gunicorn's master and worker) and Docker hold for it."""

    descriptors: int
    threads: int
    rss_kb: int
    processes: int
    containers: int
    networks: int
    volumes: int


def held(house: House) -> Held:
    pids = [house.pid, *children(house.pid)]
    status = {pid: dict(line.split(":\t", 1) for line in _read(pid, "status") if ":\t" in line) for pid in pids}
    label = f"label=com.docker.compose.project={house.project}"
    return Held(
        descriptors=sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids),
        threads=sum(int(found["Threads"]) for found in status.values()),
        rss_kb=sum(int(found["VmRSS"].split()[0]) for found in status.values()),
        processes=len(pids),
        containers=len(docker("ps", "-aq", "--filter", label).split()),
        networks=len(docker("network", "ls", "-q", "--filter", label).split()),
        volumes=len(docker("volume", "ls", "-q", "--filter", label).split()),
    )


def _read(pid: int, name: str) -> list[str]:
    return Path(f"/proc/{pid}/{name}").read_text().splitlines()


def children(pid: int) -> list[int]:
    """All below it."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):
            for child in map(int, (task / "children").read_text().split()):
                found += [child, *children(child)]
    return found


class Soak:
    """Clients and faults, each in threads with a random sequence of their own, until `over`."""

    def __init__(self, house: House, seed: int) -> None:
        self.house = house
        self.seed = seed
        self.over = threading.Event()
        self.answers: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._lock = threading.Lock()

    def run(self, minutes: float) -> None:
        with ThreadPoolExecutor(CLIENTS + 1) as pool:
            futures = [pool.submit(self._client, random.Random(f"{self.seed}.{n}")) for n in range(CLIENTS)]
            futures.append(pool.submit(self._break, random.Random(f"{self.seed}.faults")))
            self.over.wait(minutes * 60)
            self.over.set()
            for future in futures:
                future.result(2 * HANG_S)

    def _client(self, rng: random.Random) -> None:
        ways = [self._whole, self._streamed, self._leaves, self._leaves_early, self._kills_it]
        while not self.over.is_set():
            way = rng.choices(ways, weights=[10, 10, 5, 3, 1])[0]
            try:
                told = way(rng, rng.choice(MODELS))
            except requests.RequestException as exc:
                told = f"no answer: {exc!r}"[:200]
                self.wrong.append(f"{way.__name__} {told}")
            with self._lock:
                self.answers[told] += 1
            self.over.wait(rng.choice([0, 0, 0.05, rng.uniform(0, 1)]))

    def _whole(self, rng: random.Random, model_id: str) -> str:
        word = f"{rng.random()} "
        response = self._ask(model_id, {"tokens": 2, "delay_s": 0.02, "echo": word})
        if response.status_code == 200 and response.json()["text"] != word * 2:
            self.wrong.append(f"somebody else's answer: {response.text}")
        return self._told(response)

    def _streamed(self, rng: random.Random, model_id: str) -> str:
        script = {"tokens": rng.randint(1, 30), "delay_s": 0.03}
        with self._ask(model_id, script, stream=True) as response:
            if response.status_code != 200:
                return self._told(response)
            *_, last = [None, *events(response)]
        if last is None or ("error" not in last and not last.get("done")):
            self.wrong.append(f"a stream ended with {last}")
        return "200" if last and last.get("done") else self._known((last or {}).get("error", {}).get("code"))

    def _leaves(self, rng: random.Random, model_id: str) -> str:
        with self._ask(model_id, {"tokens": 1000, "delay_s": 0.03}, stream=True) as response:
            for _ in range(rng.randint(0, 5)):
                next(response.iter_lines(), None)
            return "left" if response.status_code == 200 else self._told(response)

    def _leaves_early(self, rng: random.Random, model_id: str) -> str:
        body = {"model_id": model_id, "prompt": json.dumps({"prefill_s": 30})}
        with suppress(requests.Timeout):
            return self._told(self.house.post("/inference", body, timeout=rng.uniform(0.05, 1)))
        return "left"

    def _kills_it(self, rng: random.Random, model_id: str) -> str:
        return self._told(self._ask(model_id, {"tokens": 3, "crash_after": rng.randint(0, 2)}))

    def _ask(self, model_id: str, script: Mapping[str, object], *, stream: bool = False) -> requests.Response:
        body = {"model_id": model_id, "prompt": json.dumps(script), "stream": stream}
        return self.house.post("/inference", body, stream=stream, timeout=HANG_S)

    def _told(self, response: requests.Response) -> str:
        return "200" if response.status_code == 200 else self._known(response.json()["error"]["code"])

    def _known(self, code: object) -> str:
        if code not in EXPECTED:
            self.wrong.append(f"an error nobody caused: {code}")
        return str(code)

    def _break(self, rng: random.Random) -> None:
        """One thing goes wrong after the other."""
        by_hand: dict[str, Callable[[str], object]] = {
            "docker kill": lambda found: docker("kill", found, check=False),
            "docker stop": lambda found: docker("stop", "--time", "2", found, check=False),
            "docker rm": lambda found: docker("rm", "--force", found, check=False),
            "docker pause": lambda found: self._pause(found, rng.uniform(0.5, 4)),
        }
        while not self.over.wait(rng.uniform(0.5, 4)):
            model_id = rng.choice(MODELS)
            what = rng.choice([*by_hand, "POST /stop", "nothing"])
            found = self.house.containers(model_id)
            if what == "POST /stop":
                self.house.post("/stop", {"model_id": model_id}, timeout=HANG_S)
            elif what in by_hand and found:
                by_hand[what](found[0])
            self.faults[what] += 1

    def _pause(self, container_id: str, for_s: float) -> None:
        docker("pause", container_id, check=False)
        self.over.wait(for_s)
        docker("unpause", container_id, check=False)


def used_and_stopped(house: House) -> Held:
    """What is held after every model served some clients at once, and was stopped: the same state before and after."""
    for model_id in MODELS:
        house.post("/run", {"model_id": model_id}, timeout=HANG_S).raise_for_status()
        with ThreadPoolExecutor(2 * CLIENTS) as pool:
            script = {"tokens": 10, "delay_s": 0.05}
            for answer in [pool.submit(house.ask, model_id, script) for _ in range(2 * CLIENTS)]:
                answer.result().raise_for_status()
        house.post("/stop", {"model_id": model_id}).raise_for_status()
    until("all is given back", lambda: not any(row["in_flight"] for row in house.get("/status").json()["models"]), 30)
    until("no docker command runs", lambda: len(children(house.pid)) == 1, 30)
    return held(house)


def test_nothing_grows(build_house: Build, pytestconfig: pytest.Config) -> None:
    """After minutes of random requests and faults the controller holds what it held before, no request hung, and every
    error was one of those that the faults explain."""
    minutes = float(pytestconfig.getoption("--soak-minutes"))
    seed = int(pytestconfig.getoption("--soak-seed") or random.randrange(10**6))
    print(f"\nsoak: {minutes:g} minutes, seed {seed} (--soak-seed={seed} repeats its choices)", flush=True)
    models = {model_id: {"idle_timeout": "3s"} for model_id in MODELS}
    house = build_house(models, ORCHESTRAR_STOP_GRACE_S="3")
    before = used_and_stopped(house)
    soak = Soak(house, seed)
    begun = time.monotonic()
    soak.run(minutes)
    for model_id in MODELS:
        house.post("/stop", {"model_id": model_id}, timeout=HANG_S)
    after = used_and_stopped(house)
    print(f"after {time.monotonic() - begun:.0f} s: answers {dict(soak.answers)}, faults {dict(soak.faults)}")
    for name, was in asdict(before).items():
        print(f"  {name:12} {was:8} -> {asdict(after)[name]:8}", flush=True)
    assert [] == soak.wrong
    assert soak.answers["200"] > 50 * minutes
    assert after.descriptors <= before.descriptors + 2 * CLIENTS
    assert after.threads <= before.threads + 2 * CLIENTS
    assert after.rss_kb <= before.rss_kb * 1.25 + 8 * 1024
    assert (before.processes, before.networks, before.volumes) == (after.processes, after.networks, after.volumes)
    assert after.containers <= len(MODELS)
