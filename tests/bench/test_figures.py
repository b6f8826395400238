"""The figures that `bench.peers` computes from its rounds."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bench.figures import OURS, Measurements, ratios, table
from bench.streams import Stream

PEER = "a peer"


def figures_of(
    *, tokens: int, ttft_s: float, cold_s: float, memory_mb: float, counts: tuple[int, ...]
) -> dict[str, Any]:
    """Return the figures of three passes: one with these values, one twice as slow, one twice as fast."""
    one = Measurements(
        cold_starts_s=[cold_s * 2, cold_s, cold_s / 2], memory_mb=[memory_mb * 2, memory_mb, memory_mb / 2]
    )
    for count in counts:
        streams = [Stream(ttft_s, 1.0, tokens)] * count
        one.rounds[count] = [(2.0, streams), (1.0, streams), (0.5, streams)]
    return one.figures()


def servers() -> dict[str, Any]:
    return {
        OURS: figures_of(tokens=60, ttft_s=0.1, cold_s=1.5, memory_mb=400, counts=(1, 8)),
        PEER: figures_of(tokens=20, ttft_s=0.05, cold_s=0.75, memory_mb=800, counts=(1,)),
    }


def test_one_disturbed_pass_does_not_move_a_figure() -> None:
    """Rates, cold start and memory are medians over the passes; each pass's own value is kept as well."""
    ours = servers()[OURS]
    assert (1.5, 400, 3) == (ours["cold_start_s"], ours["memory_mb"], ours["passes"])
    assert ours["streams"]["8"]["tokens_per_s"] == 480
    assert ours["streams"]["8"]["tokens_per_s_of_rounds"] == [240, 480, 960]


def test_a_ratio_above_one_means_that_ours_is_better() -> None:
    """More tokens per second count for us, more seconds and more memory against us."""
    assert ratios(servers()) == {
        PEER: {"tokens_per_s": {"1": 3}, "ttft_p50": {"1": 0.5}, "cold_start": 0.5, "memory": 2}
    }


def test_without_ours_there_is_nothing_to_compare() -> None:
    """A run of one peer alone has figures and no ratios."""
    alone = {PEER: servers()[PEER]}
    assert ratios(alone) == {}
    assert "ours" not in table(alone)


@pytest.mark.parametrize(
    "row",
    [
        f"| {OURS} | 60 | 480 | 1.50 s | 400 MB |",
        f"| {PEER} | 20 |  | 0.75 s | 800 MB |",
        f"| {OURS} | 0.10 / 0.10 s | 0.10 / 0.10 s |",
        f"| than {PEER} | 3.00 x |  | 0.50 x | 2.00 x |",
    ],
)
def test_the_table_has_a_row_for_each_server_and_gaps_without_measurements(row: str) -> None:
    """The cell is empty for a number of streams that a server was not measured at."""
    assert row in table(servers()).splitlines()


def test_results_are_json() -> None:
    """Keys and values survive the file that the chart is drawn from."""
    whole = servers()
    assert json.loads(json.dumps(whole)) == whole
