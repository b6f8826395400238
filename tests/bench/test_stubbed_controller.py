"""The benchmark of the controller's overhead measures what it claims, at a size that takes no time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bench import overhead
from bench.stubbed_controller import Pair, running


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with running() as pair:
        yield pair


@pytest.mark.parametrize("part", overhead.PARTS, ids=lambda part: part.__name__)
def test_every_part_measures(pair: Pair, monkeypatch: pytest.MonkeyPatch, part: overhead.Part) -> None:
    """Each part gives figures for the controller, each above zero, and lines for the table."""
    monkeypatch.setattr(overhead, "REQUESTS_PER_ROUND", 5)
    monkeypatch.setattr(overhead, "STREAMS_PER_ROUND", 3)
    monkeypatch.setattr(overhead, "RATE_S", 0.1)
    monkeypatch.setattr(overhead, "EVENTS_IN_TIME", {"events": 5, "interval_us": 1000})
    monkeypatch.setattr(overhead, "UNPACED_EVENTS", 5)
    monkeypatch.setattr(overhead, "IDLE_STREAMS", 10)
    figures = overhead.medians([part(pair)])
    assert all(value > 0 for name, value in figures.items() if "added" not in name), figures
    assert len(overhead.lines(figures)) == sum(name.endswith(", controller") for name in figures)


def test_a_ratio_is_controller_to_direct() -> None:
    """Both ways of a figure are in one line, with their ratio."""
    assert overhead.lines({"ms, direct": 2.0, "ms, controller": 3.0})[0].split() == ["ms", "2.000", "3.000", "1.50x"]
