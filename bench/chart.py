"""`bench/.venv/bin/python -m bench.chart RESULTS.json CHART.png`: draws the figures of `bench.peers` as bars."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

COLOURS = ("#1b6ca8", "#d98324", "#8a8a8a", "#5b9a68")


def main() -> None:
    """Read the figures and write the chart."""
    draw(json.loads(Path(sys.argv[1]).read_text())["servers"], Path(sys.argv[2]))


def draw(servers: dict[str, Any], target: Path) -> None:
    """Draw tokens per second and TTFT by streams, cold start and memory."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 2, figsize=(12, 8), layout="constrained")
    _by_streams(axes[0][0], servers, "tokens_per_s", "tokens per second, all streams together")
    _by_streams(axes[0][1], servers, "ttft_p50_s", "seconds to the first token, p50", logarithmic=True)
    _by_server(axes[1][0], servers, "cold_start_s", "cold start to the first token, seconds", "{:.2f}")
    _by_server(axes[1][1], servers, "memory_mb", "resident memory, MB", "{:.0f}")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)
    figure.savefig(target, dpi=120)


def _by_streams(axis: Any, servers: dict[str, Any], figure: str, title: str, *, logarithmic: bool = False) -> None:
    counts = list(dict.fromkeys(count for server in servers.values() for count in server["streams"]))
    width = 0.8 / len(servers)
    for place, (name, server) in enumerate(servers.items()):
        at = [index + place * width for index, count in enumerate(counts) if count in server["streams"]]
        heights = [streams[figure] for streams in server["streams"].values()]
        bars = axis.bar(at, heights, width, label=name, color=COLOURS[place % len(COLOURS)])
        axis.bar_label(bars, fmt="{:.3g}", fontsize=7)
    axis.set_xticks([index + 0.4 - width / 2 for index in range(len(counts))], counts)
    axis.set_xlabel("streams at once")
    _dress(axis, title)
    if logarithmic:
        axis.set_yscale("log")


def _by_server(axis: Any, servers: dict[str, Any], figure: str, title: str, form: str) -> None:
    for place, (name, server) in enumerate(servers.items()):
        bars = axis.barh([name], [server[figure]], color=COLOURS[place % len(COLOURS)])
        axis.bar_label(bars, fmt=form, padding=3, fontsize=8)
    axis.invert_yaxis()
    _dress(axis, title)


def _dress(axis: Any, title: str) -> None:
    axis.set_title(title, fontsize=10, loc="left")
    axis.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    main()
