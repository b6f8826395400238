from __future__ import annotations

from pathlib import Path

import pytest

from runner.engines.memory import MIB, anonymous_bytes, memory_limit_bytes
from runner.engines.openvino.kv_memory import KV_BLOCK_TOKENS, kv_blocks, kv_bytes_per_token

SMOLLM2 = {"num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "hidden_size": 576}


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


def test_the_cache_of_a_token_has_the_measured_size() -> None:
    """OpenVINO reported 737,280 bytes for a block of SmolLM2's cache in 16 bits."""
    assert kv_bytes_per_token(SMOLLM2) * KV_BLOCK_TOKENS == 737_280


def test_the_cache_stays_within_the_limit() -> None:
    """Weights, program and cache together fit, and the cache is no larger than all sequences can fill."""
    weights, per_token = 95 * MIB, 23_040
    blocks = kv_blocks(768 * MIB, weights, per_token, 8, 8192)
    assert 0 < blocks * KV_BLOCK_TOKENS * per_token < 768 * MIB - weights
    assert kv_blocks(1 << 40, weights, per_token, 8, 1024) == 8 * (1024 // KV_BLOCK_TOKENS + 1)
    assert kv_blocks(0, weights, per_token, 8, 8192) > 0
