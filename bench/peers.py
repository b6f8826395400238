"""Orchestrar beside other servers: the same weights, prompts and client, on this machine, one server at a time.

    .venv/bin/python -m bench.peers [--servers ours,llamacpp,transformers,batching] [--passes 5] [--streams 1,8,16,32]
        [--tokens 64] [--json FILE]

Each pass starts every server once (its cold start), warms it up, measures a round at each number of streams, and stops
it; figures are medians over the passes, so that a disturbance of the machine meets all of them. Ours is a project with
its own ports, removed afterwards. The chart is written beside the JSON. Needs `make bench-peers`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from bench.figures import Measurements, ratios, table
from bench.peers_setup import BENCH, PYTHON
from bench.servers import MODEL, Ours, Running, Server, llamacpp, transformers_serve
from bench.streams import one_round
from controller.deployment.engine_templates import read_engines
from controller.registry import load_registry
from controller.settings import ROOT, Settings
from controller.sources import SourceStore
from tests.docker.house import House

RESULTS = BENCH / "results"
NAMES = ("ours", "llamacpp", "transformers", "batching")
WARM_UP_TOKENS = 16


def main() -> None:
    """Measure, print the tables, write JSON and chart."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--servers", default=",".join(NAMES))
    parser.add_argument("--passes", type=int, default=5)
    parser.add_argument("--streams", default="1,8,16,32")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--json", type=Path, default=RESULTS / f"{time.strftime('%Y%m%d-%H%M%S')}.json")
    options = parser.parse_args()
    # SIGTERM, too, has to end the servers and containers.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    counts = [int(count) for count in options.streams.split(",")]
    options.json.parent.mkdir(parents=True, exist_ok=True)
    by_server: dict[str, Measurements] = {}
    with ExitStack() as stack:
        servers = [_server(name, stack, options.json.with_suffix(".log")) for name in options.servers.split(",")]
        for number in range(options.passes):
            for server in servers:
                measure(server, by_server.setdefault(server.name, Measurements()), counts, options.tokens)
                print(f"pass {number + 1} of {options.passes}: {server.name}", flush=True)
            result = {"machine": machine(), "tokens": options.tokens, **results(by_server)}
            options.json.write_text(json.dumps(result, indent=2) + "\n")
    print(table(result["servers"]))
    chart = options.json.with_suffix(".png")
    if PYTHON.exists():
        subprocess.run([str(PYTHON), "-m", "bench.chart", str(options.json), str(chart)], cwd=ROOT, check=True)
    print(f"{options.json} {chart}")


def measure(server: Server, measurements: Measurements, counts: list[int], tokens: int) -> None:
    """Measure one pass of one server."""
    with server.running() as running:
        ready_s = time.perf_counter()
        _, (first,) = one_round(_request(running, WARM_UP_TOKENS), 1)
        measurements.note = running.note
        measurements.cold_starts_s.append(ready_s - running.started_s + first.ttft_s)
        for count in counts:
            one_round(_request(running, WARM_UP_TOKENS), count)
            measurements.rounds.setdefault(count, []).append(one_round(_request(running, tokens), count))
        measurements.memory_mb.append(server.memory_mb(running))


def results(by_server: dict[str, Measurements]) -> dict[str, Any]:
    """Return the figures and ratios of all passes so far."""
    servers = {name: one.figures() for name, one in by_server.items()}
    return {"servers": servers, "ratios": ratios(servers)}


def machine() -> dict[str, Any]:
    """Describe the machine, on which the figures depend."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {"cpu": names[0] if names else platform.machine(), "cores": os.cpu_count(), "load": os.getloadavg()}


def _request(running: Running, tokens: int) -> argparse.Namespace:
    return argparse.Namespace(url=running.url, api="openai", model=running.model, tokens=tokens)


def _server(name: str, stack: ExitStack, log: Path) -> Server:
    if name == "ours":
        return Ours(stack.enter_context(_house()))
    if name not in NAMES:
        raise SystemExit(f"no server {name!r}; there are: {', '.join(NAMES)}")
    gguf = _gguf()
    return (
        llamacpp(gguf, log)
        if name == "llamacpp"
        else transformers_serve(_safetensors(gguf), log, batching=name == "batching")
    )


@contextmanager
def _house() -> Iterator[House]:
    """Run a controller with the shipped models.yaml and the model prepared."""
    _gguf()
    folder = Path(mkdtemp(prefix="orchestrar-bench-"))
    house = House(folder, (ROOT / "config" / "models.yaml").read_text(), environ={"ORCHESTRAR_LOG_LEVEL": "warning"})
    (house.data_dir / "sources").symlink_to(_store())
    try:
        house.start()
        house.post("/pull", {"model_id": MODEL}, timeout=600).raise_for_status()
        yield house
    finally:
        house.close()


def _store() -> Path:
    """Return the folder of the checkout's own downloads."""
    return Settings.from_environ(os.environ).data_dir / "sources"


def _gguf() -> Path:
    settings = Settings.from_environ(os.environ)
    registry = load_registry(settings.config_file, engines=read_engines(settings.templates_dir))
    store = SourceStore(_store())
    source = registry.resolve(MODEL).source
    return store.fetch(source, on_progress=lambda _: None, cancelled=lambda: False).path


def _safetensors(gguf: Path) -> Path:
    """Convert the same weights for `transformers`, once."""
    target = BENCH / ".weights" / MODEL
    if not target.exists():
        subprocess.run([str(PYTHON), "-m", "bench.convert", str(gguf), str(target)], cwd=ROOT, check=True)
    return target


if __name__ == "__main__":
    main()
