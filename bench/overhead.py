"""What the controller adds: the same requests directly to a stub, and through the controller.

    .venv/bin/python -m bench.overhead [--rounds 5] [--json FILE]

The controller is the real one under gunicorn; `bench.stub_upstream` stands in for a runner, and its answers cost
almost nothing. Each round measures both ways in turn; figures are medians over the rounds. Needs no Docker.
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
REQUESTS_PER_ROUND = 300
STREAMS_PER_ROUND = 100
RATE_S = 2.0
RATE_CONNECTIONS = 16
EVENTS_IN_TIME = {"events": 60, "interval_us": 50_000}
UNPACED_EVENTS = 200
IDLE_STREAMS = 200


def main() -> None:
    """Measure, print a table, and write JSON if requested."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=[part.__name__ for part in PARTS], action="append")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    results: dict[str, Figures] = {}
    with running() as pair:
        print(f"{'':48}{'direct':>12}{'controller':>12}{'':>12}")
        for part in PARTS:
            if options.only and part.__name__ not in options.only:
                continue
            part(pair)  # warm-up
            figures = medians([part(pair) for _ in range(options.rounds)])
            results[part.__name__] = figures
            print(*lines(figures), sep="\n", flush=True)
    if options.json:
        options.json.write_text(json.dumps({"rounds": options.rounds, "results": results}, indent=2) + "\n")


def whole_answers(pair: Pair) -> Figures:
    """Measure whole answers on one connection; both ways in turn, so that a disturbance meets both."""
    figures = alternating(pair, load.ask, REQUESTS_PER_ROUND, *ways(pair))
    return {f"whole answer, {name}": value for name, value in figures.items()}


def rates(pair: Pair) -> Figures:
    """Measure whole answers on many connections."""
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
    """Measure streams of one event on one connection."""
    figures = alternating(pair, load.first_event, STREAMS_PER_ROUND, *ways(pair, events=1))
    return {f"stream's first event, {name}": value for name, value in figures.items()}


def paced_8(pair: Pair) -> Figures:
    """Measure eight streams of 20 events per second each."""
    return streams_in_time(pair, 8)


def paced_32(pair: Pair) -> Figures:
    """Measure 32 streams of 20 events per second each."""
    return streams_in_time(pair, 32)


def streams_in_time(pair: Pair, count: int) -> Figures:
    """Measure how late events arrive, and what they cost the controller."""
    figures: Figures = {}
    cpu_s = 0.0
    for way, (port, request) in zip(("direct", "controller"), ways(pair, **EVENTS_IN_TIME), strict=True):
        before_s = pair.controller_cpu_s()
        delays_s = load.streams(port, request, count=count).delays_s
        cpu_s = pair.controller_cpu_s() - before_s
        for name, value in percentiles(delays_s).items():
            figures[f"{count} streams of 20 events/s: delay, {name}, {way}"] = value
    figures[f"{count} streams of 20 events/s: CPU ms per 1000 events, controller"] = (
        cpu_s * 1e6 / (count * EVENTS_IN_TIME["events"])
    )
    return figures


def unpaced(pair: Pair) -> Figures:
    """Measure 32 streams whose events follow each other without a pause."""
    figures: Figures = {}
    for way, (port, request) in zip(("direct", "controller"), ways(pair, events=UNPACED_EVENTS), strict=True):
        result = load.streams(port, request, count=32)
        figures[f"events per s, 32 streams, {way}"] = len(result.delays_s) / result.wall_s
    return figures


def beside_idle(pair: Pair) -> Figures:
    """Measure whole answers while many streams are open, and without them."""
    port, request = ways(pair)[1]
    figures: Figures = {}
    for name, value in percentiles(load.times(port, request, count=REQUESTS_PER_ROUND)).items():
        figures[f"whole answer without idle streams, {name}, controller"] = value
    _, idle_request = ways(pair, events=0)[1]
    idle = load.idle_streams(port, idle_request, count=IDLE_STREAMS)
    for name, value in percentiles(load.times(port, request, count=REQUESTS_PER_ROUND)).items():
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
    """Return the port and the request for each way: direct, then through the controller."""
    ports = (pair.stub_port, pair.controller_port)
    return [(port, load.request_bytes(port, MODEL, events=events, interval_us=interval_us)) for port in ports]


def alternating(
    pair: Pair,
    once: Callable[..., float],
    count: int,
    direct: tuple[int, bytes],
    through: tuple[int, bytes],
) -> Figures:
    """Send pairs of one request each way; the median of their differences is what the controller adds."""
    with closing(load.connect(direct[0])) as to_stub, closing(load.connect(through[0])) as to_controller:
        times = [(once(to_stub, direct[1]), once(to_controller, through[1])) for _ in range(count)]
    figures = {f"{name}, direct": value for name, value in percentiles([one for one, _ in times]).items()}
    figures |= {f"{name}, controller": value for name, value in percentiles([other for _, other in times]).items()}
    return {**figures, "ms added p50, controller": statistics.median(other - one for one, other in times) * 1000}


def percentiles(seconds: list[float]) -> Figures:
    """Return p50 and p99 in milliseconds."""
    times = sorted(seconds)
    return {
        "ms p50": statistics.median(times) * 1000,
        "ms p99": times[min(len(times) - 1, int(len(times) * 0.99))] * 1000,
    }


def medians(rounds: list[Figures]) -> Figures:
    """Return the median of each figure."""
    return {name: round(statistics.median(one[name] for one in rounds), 3) for name in rounds[0]}


def lines(figures: Figures) -> list[str]:
    """Return the table's lines: both ways side by side, and their ratio."""
    rows = []
    for name in dict.fromkeys(name.rpartition(", ")[0] for name in figures):
        direct, through = figures.get(f"{name}, direct"), figures[f"{name}, controller"]
        columns = (
            f"{'':12}{through:12.3f}" if direct is None else (f"{direct:12.3f}{through:12.3f}{through / direct:11.2f}x")
        )
        rows.append(f"{name:48}{columns}")
    return rows


if __name__ == "__main__":
    main()
