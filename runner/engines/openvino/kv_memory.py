"""How much memory the KV cache of the openvino engine may take, in its own unit: blocks."""

from __future__ import annotations

from typing import Any

KV_BLOCK_TOKENS = 32
# Interpreter, libraries, compiled graph and work buffers. Seen with SmolLM2-135M: see docs/models-yaml.md.
OVERHEAD_BYTES = 384 * 1024 * 1024
# Weights are held once as they are in the file and, repacked for the CPU, partly a second time.
WEIGHT_COPIES = 1.3
FALLBACK_KV_BYTES = 64 * 1024


def kv_bytes_per_token(config: dict[str, Any]) -> int:
    """Keys and values of one token in all layers, as values of 16 bits.

    A model whose configuration does not say its shape is taken for a large one.
    """
    heads = int(config.get("num_attention_heads") or 0)
    kv_heads = int(config.get("num_key_value_heads") or heads)
    head_dim = int(config.get("head_dim") or (int(config.get("hidden_size") or 0) // max(heads, 1)))
    found = 2 * int(config.get("num_hidden_layers") or 0) * kv_heads * head_dim * 2
    return found or FALLBACK_KV_BYTES


def kv_blocks(limit_bytes: int, weights_bytes: int, bytes_per_token: int, sequences: int, context_length: int) -> int:
    """As many blocks as memory has room for, but no more than all sequences at their longest can fill."""
    room_bytes = limit_bytes - int(WEIGHT_COPIES * weights_bytes) - OVERHEAD_BYTES
    fitting = room_bytes // (bytes_per_token * KV_BLOCK_TOKENS)
    useful = sequences * (-(-context_length // KV_BLOCK_TOKENS) + 1)
    # With too little memory a short context still works; below this not even a prompt would fit.
    return max(min(fitting, useful), 8)
