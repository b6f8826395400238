from __future__ import annotations

from pathlib import Path

import pytest

from runner.engines.memory import MIB, anonymous_bytes, memory_limit_bytes


@pytest.mark.parametrize(
    ("text", "limited"), [("104857600\n", True), ("max\n", False), ("9223372036854771712\n", False)]
)
def test_the_containers_limit_counts(tmp_path: Path, text: str, limited: bool) -> None:
    """The limit is the control group's, or the machine's memory if it sets none."""
    file = tmp_path / "memory.max"
    file.write_text(text)
    machine = memory_limit_bytes(())
    assert memory_limit_bytes((tmp_path / "absent", file)) == (100 * MIB if limited else machine)


def test_only_anonymous_memory_counts(tmp_path: Path) -> None:
    """Pages of files do not count, since the system can drop them."""
    file = tmp_path / "status"
    file.write_text("VmRSS:\t 3000 kB\nRssAnon:\t    1000 kB\nRssFile:\t    2000 kB\n")
    assert anonymous_bytes(file) == 1000 * 1024
    assert anonymous_bytes() > MIB
