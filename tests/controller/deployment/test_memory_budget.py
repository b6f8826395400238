"""What all models may take, and what to count for each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from controller.deployment.memory_budget import MARGIN_BYTES, Demand, MemoryBudget, available_bytes, gpus_here
from controller.docker.cgroup import working_set_bytes

GIB = 1 << 30
MIB = 1 << 20

Build = Callable[..., MemoryBudget]


@pytest.fixture
def build(tmp_path: Path) -> Build:
    def make(fixed: int | None = None, available: int | None = 4 * GIB) -> MemoryBudget:
        return MemoryBudget(
            fixed_bytes=lambda: fixed,
            docker_bytes=lambda: 10 * GIB,
            path=tmp_path / "working_sets.json",
            available=lambda: available,
            gpus=lambda: 2,
        )

    return make


def demand(config: str = "a") -> Demand:
    return Demand(model_id="tiny", config=config, limit_bytes=2 * GIB, gpus=1)


class TestRoom:
    def test_auto_is_the_smaller_of_two(self, build: Build) -> None:
        """80 % of Docker's memory, or the free memory plus what our models use."""
        assert build().room(used_bytes=GIB).memory_bytes == 5 * GIB
        assert build().room(used_bytes=7 * GIB).memory_bytes == 8 * GIB
        assert build(available=None).room(used_bytes=0).memory_bytes == 8 * GIB

    def test_a_fixed_budget_is_the_budget(self, build: Build) -> None:
        assert build(fixed=GIB).room(used_bytes=0).memory_bytes == GIB

    def test_gpus_are_counted_by_the_driver(self, build: Build, tmp_path: Path) -> None:
        assert build().room(0).gpus == 2
        assert gpus_here(tmp_path / "none") is None
        (tmp_path / "0000:01:00.0").mkdir()
        assert gpus_here(tmp_path) == 1

    def test_free_memory_is_read_from_the_kernel(self, tmp_path: Path) -> None:
        meminfo = tmp_path / "meminfo"
        meminfo.write_text("MemTotal:  99 kB\nMemAvailable:   12 kB\n")
        assert available_bytes(meminfo) == 12 * 1024
        assert available_bytes(tmp_path / "none") is None


class TestNeeds:
    def test_without_a_measurement_it_is_the_limit(self, build: Build) -> None:
        amount = build().needs(demand())
        assert (amount.memory_bytes, amount.gpus) == (2 * GIB, 1)
        assert build().needs(demand(), limit_bytes=GIB).memory_bytes == GIB

    def test_with_measurements_it_is_the_largest_with_a_margin(self, build: Build) -> None:
        """Never above the limit."""
        budget = build()
        budget.observe(demand(), 100 * MIB)
        budget.observe(demand(), 50 * MIB)
        assert budget.needs(demand()).memory_bytes == 100 * MIB + MARGIN_BYTES
        budget.observe(demand(), GIB)
        assert budget.needs(demand()).memory_bytes == int(1.2 * GIB)
        budget.observe(demand(), 2 * GIB)
        assert budget.needs(demand()).memory_bytes == 2 * GIB

    def test_it_outlives_the_controller(self, build: Build) -> None:
        build().observe(demand(), GIB)
        assert build().needs(demand()).memory_bytes == int(1.2 * GIB)

    def test_another_configuration_is_measured_again(self, build: Build) -> None:
        budget = build()
        budget.observe(demand("a"), GIB)
        assert budget.needs(demand("b")).memory_bytes == 2 * GIB

    def test_a_broken_file_is_measured_again(self, build: Build, tmp_path: Path) -> None:
        for text in ("{", "[]", '{"tiny": 3}', '{"tiny": ["a", "b"]}'):
            (tmp_path / "working_sets.json").write_text(text)
            assert build().needs(demand()).memory_bytes == 2 * GIB

    def test_a_full_disk_keeps_it_in_memory(self, build: Build, tmp_path: Path) -> None:
        budget = build()
        (tmp_path / "working_sets.json").mkdir()
        budget.observe(demand(), GIB)
        assert budget.needs(demand()).memory_bytes == int(1.2 * GIB)


@pytest.mark.parametrize(
    ("folder", "usage", "inactive"),
    [
        ("memory/docker/c1", "memory.usage_in_bytes", "total_inactive_file"),
        ("system.slice/docker-c1.scope", "memory.current", "inactive_file"),
    ],
)
def test_a_working_set_excludes_idle_pages(tmp_path: Path, folder: str, usage: str, inactive: str) -> None:
    """With cgroups of both versions; None if there is no such group."""
    group = tmp_path / folder
    group.mkdir(parents=True)
    (group / usage).write_text("1000\n")
    (group / "memory.stat").write_text(f"cache 500\n{inactive} 300\n")
    assert working_set_bytes("c1", tmp_path) == 700
    assert working_set_bytes("c2", tmp_path) is None
