"""How much memory the KV cache of the openvino engine takes."""

from __future__ import annotations

from runner.engines.memory import MIB
from runner.engines.openvino.kv_memory import KV_BLOCK_TOKENS, kv_blocks, kv_bytes_per_token

SMOLLM2 = {"num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "hidden_size": 576}


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
