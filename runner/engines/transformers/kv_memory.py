"""How many tokens a batch may keep, from the memory there is."""

from __future__ import annotations

from dataclasses import dataclass

# Interpreter, libraries and work buffers. Seen with SmolLM2-135M, on a prompt of 7000 tokens: see docs/models-yaml.md.
OVERHEAD_BYTES = 512 * 1024 * 1024
# With too little memory a short context still works; with less than this hardly a prompt would fit.
MIN_TOKENS = 512


@dataclass(frozen=True)
class Room:
    """Rows of at most `context_length` tokens each, and `tokens` in all."""

    rows: int
    context_length: int
    tokens: int


def shared_room(free_bytes: int, bytes_per_token: int, *, rows: int, context_length: int) -> Room:
    """Where a row takes only the memory of its tokens: what one leaves free another may use."""
    fitting = max(free_bytes // bytes_per_token, MIN_TOKENS)
    return Room(rows, min(context_length, fitting), min(fitting, rows * context_length))


def fixed_room(free_bytes: int, bytes_per_token: int, *, rows: int, context_length: int) -> Room:
    """Where each row takes the memory of a full context: as many as fit, and at least one."""
    fitting = max(free_bytes // bytes_per_token, MIN_TOKENS)
    context_length = min(context_length, fitting)
    rows = max(1, min(rows, fitting // context_length))
    return Room(rows, context_length, rows * context_length)
