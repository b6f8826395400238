"""Tiny random GGUF models of the families that our own graph computes; for the images, which have gguf."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np

WIDTH, FORWARD, HEADS, KV_HEADS, LAYERS, VOCABULARY = 64, 96, 4, 2, 3, 320
HEAD = WIDTH // HEADS
Q4_0, Q5_0, Q8_0 = (getattr(gguf.GGMLQuantizationType, name) for name in ("Q4_0", "Q5_0", "Q8_0"))
Keys = dict[str, Any]


def write_model(
    path: Path, architecture: str, *, kind: Any = Q8_0, biases: tuple[str, ...] = (), has_norms: bool = False,
    is_tied: bool = False, factors: list[float] | None = None, keys: Keys | None = None, extra: str = "",
) -> None:  # fmt: skip
    """Write a GGUF file with random weights, large enough that each part of the arithmetic shows in the logits."""
    random = np.random.default_rng(16)
    writer = gguf.GGUFWriter(path, architecture)
    prefix = f"{architecture}."
    values = {"block_count": LAYERS, "context_length": 8192, "embedding_length": WIDTH, "feed_forward_length": FORWARD,
              "vocab_size": VOCABULARY, "attention.head_count": HEADS, "attention.head_count_kv": KV_HEADS,
              "attention.key_length": HEAD, "attention.value_length": HEAD}  # fmt: skip
    for key, value in values.items():
        writer.add_uint32(prefix + key, value)
    writer.add_float32(f"{prefix}attention.layer_norm_rms_epsilon", 1e-5)
    for key, value in (keys or {}).items():
        add_key = writer.add_string if isinstance(value, str) else writer.add_float32
        add_key(prefix + key, value)
    write_vocabulary(writer)

    def add(name: str, *shape: int, spread: float = 1.0) -> None:
        weights = (random.standard_normal(shape) * spread / np.sqrt(shape[-1])).astype(np.float32)
        writer.add_tensor(name, gguf.quants.quantize(weights, kind), raw_dtype=kind)

    def add_vector(name: str, size: int, middle: float = 0.0) -> None:
        writer.add_tensor(name, (middle + 0.5 * random.standard_normal(size)).astype(np.float32))

    add("token_embd.weight", VOCABULARY, WIDTH, spread=8)
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        rows = {"attn_q": WIDTH, "attn_k": KV_HEADS * HEAD, "attn_v": KV_HEADS * HEAD, "attn_output": WIDTH}
        for name, count in rows.items():
            add(f"{block}{name}.weight", count, WIDTH, spread=2)
            if name in biases:
                add_vector(f"{block}{name}.bias", count)
        for name, (count, columns) in {
            "gate": (FORWARD, WIDTH),
            "up": (FORWARD, WIDTH),
            "down": (WIDTH, FORWARD),
        }.items():
            add(f"{block}ffn_{name}.weight", count, columns, spread=2)
        for name in ("attn_norm", "ffn_norm"):
            add_vector(f"{block}{name}.weight", WIDTH, middle=1.0)
        if has_norms:
            for name in ("attn_q_norm", "attn_k_norm"):
                add_vector(f"{block}{name}.weight", HEAD, middle=1.0)
    add_vector("output_norm.weight", WIDTH, middle=1.0)
    if not is_tied:
        add("output.weight", VOCABULARY, WIDTH, spread=4)
    if factors is not None:
        writer.add_tensor("rope_freqs.weight", np.array(factors, dtype=np.float32))
    if extra:
        add_vector(extra, WIDTH)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_vocabulary(writer: Any) -> None:
    letters = [chr(number) for number in range(0x21, 0x7F)]
    tokens = [*letters, "Ġ", "ab", "<|im_end|>"]
    end, padding = len(tokens) - 1, [f"[PAD{number}]" for number in range(VOCABULARY - len(tokens))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([*tokens, *padding])
    writer.add_token_types([1] * end + [3] + [5] * len(padding))
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(end)


FACTORS = [1.0, 1.0, 1.5, 2.0, 4.0, 8.0, 8.0, 8.0]
MODELS: dict[str, Keys] = {
    "llama": {"architecture": "llama"},
    "llama with biases": {"architecture": "llama", "biases": ("attn_q", "attn_k", "attn_v", "attn_output")},
    "llama, tied": {"architecture": "llama", "is_tied": True},
    "llama 3's rope": {"architecture": "llama", "factors": FACTORS},
    "linear rope": {"architecture": "llama", "keys": {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}},
    "a factor without a kind": {"architecture": "llama", "keys": {"rope.scaling.factor": 4.0}},
    "qwen2": {"architecture": "qwen2", "biases": ("attn_q", "attn_k", "attn_v"), "keys": {"rope.freq_base": 1e6}},
    "qwen3": {"architecture": "qwen3", "has_norms": True},
    "Q4_0": {"architecture": "llama", "kind": Q4_0},
    "Q5_0": {"architecture": "llama", "kind": Q5_0},
}
