"""Seconds from request to answer by the running controller: model stopped before (cold) and running (warm).

    .venv/bin/python -m bench.first_answer [--model smollm2-135m] [--runs 5] [--json FILE]

Medians of whole requests over loopback, with the start's phases as the runner reports them. The model must be prepared.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import requests

PROMPT = "What is the capital of France?"


def main() -> None:
    """Measure, print a table, and write JSON if requested."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    cold = [measure(options.url, options.model, is_cold=True) for _ in range(options.runs)]
    warm = [measure(options.url, options.model, is_cold=False) for _ in range(options.runs)]
    result = {
        "model": options.model,
        "runs": options.runs,
        "cold": summary(cold),
        "warm": summary(warm),
        "answer": cold[-1]["text"],
    }
    for kind in ("cold", "warm"):
        print(kind, "  ".join(f"{name} {value:.3f}" for name, value in result[kind].items()))
    print("answer:", result["answer"])
    if options.json:
        options.json.write_text(json.dumps({**result, "cold_runs": cold, "warm_runs": warm}, indent=2) + "\n")


def measure(url: str, model: str, *, is_cold: bool) -> dict[str, Any]:
    """Send one request; return its wall time and the timings in the answer."""
    if is_cold:
        requests.post(f"{url}/stop", json={"model_id": model}, timeout=60).raise_for_status()
    body = {"model_id": model, "prompt": PROMPT, "temperature": 0}
    began_at = time.perf_counter()
    response = requests.post(f"{url}/inference", json=body, timeout=300)
    wall_s = time.perf_counter() - began_at
    response.raise_for_status()
    answer = response.json()
    rows = requests.get(f"{url}/status", timeout=30).json()["models"]
    phases = next(row["start_phases"] for row in rows if row["id"] == answer["model_id"]) if is_cold else {}
    return {"wall_s": wall_s, **answer["timings"], **phases, "text": answer["text"]}


def summary(runs: list[dict[str, Any]]) -> dict[str, float]:
    """Return the median of each figure."""
    names = [name for name, value in runs[0].items() if isinstance(value, float)]
    return {name: statistics.median(run[name] for run in runs) for name in names}


if __name__ == "__main__":
    main()
