"""How many tokens a batch may keep in the free memory."""

from __future__ import annotations

from dataclasses import dataclass

from runner.engines.memory import MIB

# Interpreter, libraries and work buffers. Measured with SmolLM2-135M and a prompt of 7000 tokens: docs/models-yaml.md.
OVERHEAD_BYTES = 512 * MIB
# With too little memory a short context still works; with fewer tokens hardly a prompt would fit.
MIN_TOKENS = 512


@dataclass(frozen=True)
class Room:
    """Rows of at most `context_length` tokens each, and `tokens` in all."""

    rows: int
    context_length: int
    tokens: int


def shared_room(free_bytes: int, bytes_per_token: int, *, rows: int, context_length: int) -> Room:
    """Return the room if a row takes memory only for its tokens: a row may use what another leaves free."""
    fitting = max(free_bytes // bytes_per_token, MIN_TOKENS)
    return Room(rows, min(context_length, fitting), min(fitting, rows * context_length))


def fixed_room(free_bytes: int, bytes_per_token: int, *, rows: int, context_length: int) -> Room:
    """Return the room if each row takes the memory of a full context: as many rows as fit, and at least one."""
    fitting = max(free_bytes // bytes_per_token, MIN_TOKENS)
    context_length = min(context_length, fitting)
    rows = max(1, min(rows, fitting // context_length))
    return Room(rows, context_length, rows * context_length)
