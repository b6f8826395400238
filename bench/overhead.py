"""What the controller adds: the same requests to a stub upstream directly, and through the controller.

    .venv/bin/python -m bench.overhead [--rounds 5] [--json FILE]

The controller is the real one under gunicorn; instead of a runner there is `bench.stub_upstream`, whose answers cost as
good as nothing. Each round measures both ways in turn; figures are medians over the rounds. Needs no Docker.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from bench import load
from bench.stubbed_controller import MODEL, Pair, running

Figures = dict[str, float]
ASKED_PER_ROUND = 300
STREAMS_PER_ROUND = 100
RATE_S = 2.0
RATE_CONNECTIONS = 16
PACED = {"events": 60, "interval_us": 50_000}
UNPACED_EVENTS = 200
IDLE_STREAMS = 200


def main() -> None:
    """Measure, print a table, and write JSON when asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=[part.__name__ for part in PARTS], action="append")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    results: dict[str, Figures] = {}
    with running() as pair:
        print(f"{'':48}{'direct':>12}{'controller':>12}{'':>12}")
        for part in PARTS:
            if given.only and part.__name__ not in given.only:
                continue
            part(pair)  # warm-up
            figures = medians([part(pair) for _ in range(given.rounds)])
            results[part.__name__] = figures
            print(*lines(figures), sep="\n", flush=True)
    if given.json:
        given.json.write_text(json.dumps({"rounds": given.rounds, "results": results}, indent=2) + "\n")


def whole_answers(pair: Pair) -> Figures:
    """One connection, whole answers; each way in turn, so that what disturbs one disturbs the other."""
    figures = alternating(pair, load.ask, ASKED_PER_ROUND, *ways(pair))
    return {f"whole answer, {name}": value for name, value in figures.items()}


def rates(pair: Pair) -> Figures:
    """Many connections, whole answers."""
    name = f"whole answers per s, {RATE_CONNECTIONS} connections"
    figures: Figures = {}
    cost_ms = 0.0
    for way, (port, request) in zip(("direct", "controller"), ways(pair), strict=True):
        before_s = pair.controller_cpu_s()
        rate = load.requests_per_s(port, request, connections=RATE_CONNECTIONS, seconds=RATE_S)
        cost_ms = (pair.controller_cpu_s() - before_s) * 1000 / (rate * RATE_S)
        figures[f"{name}, {way}"] = rate
    return {**figures, "CPU ms per whole answer, controller": cost_ms}


def first_tokens(pair: Pair) -> Figures:
    """One connection, streams of one event."""
    figures = alternating(pair, load.first_event, STREAMS_PER_ROUND, *ways(pair, events=1))
    return {f"stream's first event, {name}": value for name, value in figures.items()}


def paced_8(pair: Pair) -> Figures:
    """Eight streams of 20 events per second each."""
    return paced(pair, 8)


def paced_32(pair: Pair) -> Figures:
    """32 streams of 20 events per second each."""
    return paced(pair, 32)


def paced(pair: Pair, count: int) -> Figures:
    """How late events come, and what they cost the controller."""
    figures: Figures = {}
    cpu_s = 0.0
    for way, (port, request) in zip(("direct", "controller"), ways(pair, **PACED), strict=True):
        before_s = pair.controller_cpu_s()
        delays_s = load.streams(port, request, count=count).delays_s
        cpu_s = pair.controller_cpu_s() - before_s
        for name, value in percentiles(delays_s).items():
            figures[f"{count} streams of 20 events/s: delay, {name}, {way}"] = value
    figures[f"{count} streams of 20 events/s: CPU ms per 1000 events, controller"] = (
        cpu_s * 1e6 / (count * PACED["events"])
    )
    return figures


def unpaced(pair: Pair) -> Figures:
    """32 streams whose events come one right after the other."""
    figures: Figures = {}
    for way, (port, request) in zip(("direct", "controller"), ways(pair, events=UNPACED_EVENTS), strict=True):
        done = load.streams(port, request, count=32)
        figures[f"events per s, 32 streams, {way}"] = len(done.delays_s) / done.wall_s
    return figures


def beside_idle(pair: Pair) -> Figures:
    """Whole answers while many streams are held open, and without them."""
    port, request = ways(pair)[1]
    figures: Figures = {}
    for name, value in percentiles(load.times(port, request, count=ASKED_PER_ROUND)).items():
        figures[f"whole answer without idle streams, {name}, controller"] = value
    _, idle_request = ways(pair, events=0)[1]
    idle = load.idle_streams(port, idle_request, count=IDLE_STREAMS)
    for name, value in percentiles(load.times(port, request, count=ASKED_PER_ROUND)).items():
        figures[f"whole answer beside {IDLE_STREAMS} idle streams, {name}, controller"] = value
    for connection in idle:
        connection.close()
    return figures


Part = Callable[[Pair], Figures]
PARTS: tuple[Part, ...] = (
    whole_answers,
    rates,
    first_tokens,
    paced_8,
    paced_32,
    unpaced,
    beside_idle,
)


def ways(pair: Pair, *, events: int | None = None, interval_us: int = 0) -> list[tuple[int, bytes]]:
    """The request for each way: direct, then through the controller."""
    ports = (pair.stub_port, pair.controller_port)
    return [(port, load.request_bytes(port, MODEL, events=events, interval_us=interval_us)) for port in ports]


def alternating(
    pair: Pair,
    once: Callable[..., float],
    count: int,
    direct: tuple[int, bytes],
    through: tuple[int, bytes],
) -> Figures:
    """Pairs of one request each way; the middle of their differences is what the controller adds."""
    with closing(load.connect(direct[0])) as to_stub, closing(load.connect(through[0])) as to_controller:
        times = [(once(to_stub, direct[1]), once(to_controller, through[1])) for _ in range(count)]
    figures = {f"{name}, direct": value for name, value in percentiles([one for one, _ in times]).items()}
    figures |= {f"{name}, controller": value for name, value in percentiles([other for _, other in times]).items()}
    return {**figures, "ms added p50, controller": statistics.median(other - one for one, other in times) * 1000}


def percentiles(seconds: list[float]) -> Figures:
    """In milliseconds."""
    ordered = sorted(seconds)
    return {
        "ms p50": statistics.median(ordered) * 1000,
        "ms p99": ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))] * 1000,
    }


def medians(rounds: list[Figures]) -> Figures:
    """The median of each figure."""
    return {name: round(statistics.median(one[name] for one in rounds), 3) for name in rounds[0]}


def lines(figures: Figures) -> list[str]:
    """The table's lines: both ways side by side, and their ratio."""
    found = []
    for name in dict.fromkeys(name.rpartition(", ")[0] for name in figures):
        direct, through = figures.get(f"{name}, direct"), figures[f"{name}, controller"]
        compared = (
            f"{'':12}{through:12.3f}" if direct is None else (f"{direct:12.3f}{through:12.3f}{through / direct:11.2f}x")
        )
        found.append(f"{name:48}{compared}")
    return found


if __name__ == "__main__":
    main()
