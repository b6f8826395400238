"""How much memory the KV cache of the openvino engine may take, in the library's unit: blocks."""

from __future__ import annotations

from typing import Any

from runner.engines.memory import MIB

KV_BLOCK_TOKENS = 32
# Interpreter, libraries, compiled graph and work buffers. Measured with SmolLM2-135M: see docs/models-yaml.md.
OVERHEAD_BYTES = 384 * MIB
# Memory holds the weights once as in the file and, repacked for the CPU, partly a second time.
WEIGHT_COPIES = 1.3
FALLBACK_KV_BYTES = 64 * 1024


def kv_bytes_per_token(config: dict[str, Any]) -> int:
    """Return the bytes of one token's keys and values in all layers, at 16 bits a value.

    A model whose configuration lacks its shape counts as a large one.
    """
    heads = int(config.get("num_attention_heads") or 0)
    kv_heads = int(config.get("num_key_value_heads") or heads)
    head_dim = int(config.get("head_dim") or (int(config.get("hidden_size") or 0) // max(heads, 1)))
    token_bytes = 2 * int(config.get("num_hidden_layers") or 0) * kv_heads * head_dim * 2
    return token_bytes or FALLBACK_KV_BYTES


def kv_blocks(limit_bytes: int, weights_bytes: int, bytes_per_token: int, sequences: int, context_length: int) -> int:
    """Return as many blocks as fit into memory, but no more than all sequences at their longest can fill."""
    room_bytes = limit_bytes - int(WEIGHT_COPIES * weights_bytes) - OVERHEAD_BYTES
    fitting = room_bytes // (bytes_per_token * KV_BLOCK_TOKENS)
    useful = sequences * (-(-context_length // KV_BLOCK_TOKENS) + 1)
    # With too little memory a short context still works; with fewer blocks not even a prompt would fit.
    return max(min(fitting, useful), 8)
