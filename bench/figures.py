"""Medians, ratios and a table from the rounds of several servers. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.streams import Stream, summary

Round = tuple[float, list[Stream]]
OURS = "orchestrar"


@dataclass
class Measurements:
    """What was measured of one server, with a value for each pass."""

    note: str = ""
    cold_starts_s: list[float] = field(default_factory=list)
    memory_mb: list[float] = field(default_factory=list)
    rounds: dict[int, list[Round]] = field(default_factory=dict)

    def figures(self) -> dict[str, Any]:
        """Return the medians, and each pass's own values of cold start and rates."""
        return {
            "note": self.note,
            "passes": len(self.cold_starts_s),
            "cold_start_s": round(statistics.median(self.cold_starts_s), 3),
            "cold_starts_s": [round(value, 3) for value in self.cold_starts_s],
            "memory_mb": round(statistics.median(self.memory_mb)),
            "streams": {str(count): self._at(count) for count in sorted(self.rounds)},
        }

    def _at(self, count: int) -> dict[str, Any]:
        rates = [sum(stream.tokens for stream in streams) / wall_s for wall_s, streams in self.rounds[count]]
        return {**summary(self.rounds[count]), "tokens_per_s_of_rounds": [round(rate, 1) for rate in rates]}


def ratios(servers: dict[str, Any], of: str = OURS) -> dict[str, Any]:
    """Return how many times better `of` is than each other server: above 1 it is faster, or smaller."""
    if of not in servers:
        return {}
    ours = servers[of]
    by_server = {}
    for name, other in servers.items():
        if name == of:
            continue
        counts = [count for count in ours["streams"] if count in other["streams"]]
        by_server[name] = {
            "tokens_per_s": {
                count: _ratio(ours["streams"][count]["tokens_per_s"], other["streams"][count]["tokens_per_s"])
                for count in counts
            },
            "ttft_p50": {
                count: _ratio(other["streams"][count]["ttft_p50_s"], ours["streams"][count]["ttft_p50_s"])
                for count in counts
            },
            "cold_start": _ratio(other["cold_start_s"], ours["cold_start_s"]),
            "memory": _ratio(other["memory_mb"], ours["memory_mb"]),
        }
    return by_server


def table(servers: dict[str, Any]) -> str:
    """Return Markdown tables: of the servers, and of how ours compares."""
    counts = list(dict.fromkeys(count for server in servers.values() for count in server["streams"]))
    streams = [f"{count} stream{'s' if count != '1' else ''}" for count in counts]
    rows = [["tokens/s", *streams, "cold start", "memory"]]
    for name, server in servers.items():
        cells = [_cell(server["streams"].get(count), "{tokens_per_s:g}") for count in counts]
        rows.append([name, *cells, f"{server['cold_start_s']:.2f} s", f"{server['memory_mb']:.0f} MB"])
    delays = [["TTFT p50 / p99", *streams]]
    for name, server in servers.items():
        cells = [_cell(server["streams"].get(count), "{ttft_p50_s:.2f} / {ttft_p99_s:.2f} s") for count in counts]
        delays.append([name, *cells])
    parts = [_markdown(rows), _markdown(delays)]
    if ratios_by_server := ratios(servers):
        lines = [["ours is better by", *streams, "cold start", "memory"]]
        for name, ratio in ratios_by_server.items():
            cells = [
                f"{ratio['tokens_per_s'][count]:.2f} x" if count in ratio["tokens_per_s"] else "" for count in counts
            ]
            lines.append([f"than {name}", *cells, f"{ratio['cold_start']:.2f} x", f"{ratio['memory']:.2f} x"])
        parts.append(_markdown(lines))
    parts.append("\n".join(f"{name}: {server['note']}" for name, server in servers.items() if server["note"]))
    return "\n\n".join(parts)


def _ratio(larger: float, smaller: float) -> float | None:
    return round(larger / smaller, 3) if smaller else None


def _cell(figures: dict[str, Any] | None, form: str) -> str:
    return form.format(**figures) if figures else ""


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    head, *rest = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([head, "|---" * len(rows[0]) + "|", *rest])
