"""A soak: after random faults for some minutes nothing has grown. `make soak` runs it; `make test` does not."""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.docker.conftest import Build
from tests.docker.docker_gate import Gate
from tests.docker.faults.soaking import CLIENTS, HANG_S, MODELS, TOP, Faults, Soak
from tests.docker.house import House, docker, until

pytestmark = [pytest.mark.soak, pytest.mark.timeout(0)]


@dataclass(frozen=True)
class Holdings:
    """What the controller (gunicorn's master and worker) holds, and Docker for it."""

    descriptors: int
    threads: int
    rss_kb: int
    processes: int
    containers: int
    networks: int
    volumes: int


def holdings(house: House) -> Holdings:
    pids = [house.pid, *children(house.pid)]
    status = {pid: dict(line.split(":\t", 1) for line in _read(pid, "status") if ":\t" in line) for pid in pids}
    label = f"label=com.docker.compose.project={house.project}"
    return Holdings(
        descriptors=sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids),
        threads=sum(int(fields["Threads"]) for fields in status.values()),
        rss_kb=sum(int(fields["VmRSS"].split()[0]) for fields in status.values()),
        processes=len(pids),
        containers=len(docker("ps", "-aq", "--filter", label).split()),
        networks=len(docker("network", "ls", "-q", "--filter", label).split()),
        volumes=len(docker("volume", "ls", "-q", "--filter", label).split()),
    )


def _read(pid: int, name: str) -> list[str]:
    return Path(f"/proc/{pid}/{name}").read_text().splitlines()


def children(pid: int) -> list[int]:
    """Return all descendants of the process."""
    pids = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):
            for child in map(int, (task / "children").read_text().split()):
                pids += [child, *children(child)]
    return pids


def rows(house: House) -> list[dict[str, Any]]:
    models: list[dict[str, Any]] = house.get("/status").json()["models"]
    return models


def used_and_stopped(house: House) -> Holdings:
    """Use every model with several clients at once, stop it, and return what is held: comparable before and after."""
    until("no model is paused", lambda: all(row["state"] != "paused" for row in rows(house)), 30)
    for model_id in MODELS:
        house.post("/run", {"model_id": model_id}, timeout=HANG_S).raise_for_status()
        with ThreadPoolExecutor(2 * CLIENTS) as pool:
            script = {"tokens": 10, "delay_s": 0.05}
            for answer in [pool.submit(house.ask, model_id, script) for _ in range(2 * CLIENTS)]:
                answer.result().raise_for_status()
        house.post("/stop", {"model_id": model_id}).raise_for_status()
    until("no request is in flight", lambda: not any(row["in_flight"] for row in rows(house)), 30)
    result: Holdings = until("only docker events runs", lambda: holdings_at_rest(house), 30)
    return result


def holdings_at_rest(house: House) -> Holdings | None:
    """Return what is held while no look at Docker is under way; None if one is, or begins meanwhile."""
    with suppress(OSError):
        before, result, after = house.docker_commands(), holdings(house), house.docker_commands()
        if before == after and all(" events " in command for command in before.values()):
            return result
    return None


def test_nothing_grows(build_house: Build, gate: Gate, pytestconfig: pytest.Config) -> None:
    """After minutes of random requests and faults the controller holds what it held before, no request hung, and the
    faults explain every error."""
    minutes = float(pytestconfig.getoption("--soak-minutes"))
    seed = int(pytestconfig.getoption("--soak-seed") or random.randrange(10**6))
    print(f"\nsoak: {minutes:g} minutes, seed {seed} (--soak-seed={seed} repeats its choices)", flush=True)
    house = build_house(
        {model_id: {} for model_id in MODELS}, top=TOP, ORCHESTRAR_STOP_GRACE_S="3", DOCKER_HOST=gate.url
    )
    before = used_and_stopped(house)
    soak = Soak(house, Faults(house, gate), seed)
    started_at = time.monotonic()
    soak.run(minutes)
    until("the controller is healthy", lambda: house.get("/health").json()["status"] == "ok", 60)
    after = used_and_stopped(house)
    took_s = time.monotonic() - started_at
    print(f"after {took_s:.0f} s: answers {dict(soak.answers)}, faults {dict(soak.faults.counts)}")
    print(f"  the worker's memory after each quarter: {', '.join(f'{mb:.1f}' for mb in soak.memory_mb)} MB")
    for name, was in asdict(before).items():
        print(f"  {name:12} {was:8} -> {asdict(after)[name]:8}", flush=True)
    assert [] == soak.wrong
    assert soak.answers["200"] > 20 * minutes
    assert after.descriptors <= before.descriptors + 2 * CLIENTS
    assert after.threads <= before.threads + 2 * CLIENTS
    assert after.rss_kb <= before.rss_kb * 1.25 + 8 * 1024
    # Threads, buffers and caches reach their size at first; a leak continues.
    assert soak.memory_mb[-1] <= soak.memory_mb[-2] * 1.05
    assert (before.processes, before.networks, before.volumes) == (after.processes, after.networks, after.volumes)
    assert after.containers <= len(MODELS)
