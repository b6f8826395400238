"""How many tokens a batch may keep."""

from __future__ import annotations

from runner.engines.transformers.kv_memory import MIN_TOKENS, Room, fixed_room, shared_room

TOKEN_BYTES = 46_080


def test_shared_rows_use_the_free_memory() -> None:
    """All rows together get the free memory, but no more than they can fill."""
    free = 10_000 * TOKEN_BYTES
    assert Room(8, 8192, 10_000) == shared_room(free, TOKEN_BYTES, rows=8, context_length=8192)
    assert Room(2, 1024, 2048) == shared_room(free, TOKEN_BYTES, rows=2, context_length=1024)


def test_no_context_exceeds_the_room() -> None:
    """A single request at its longest always fits."""
    assert Room(8, 3000, 3000) == shared_room(3000 * TOKEN_BYTES, TOKEN_BYTES, rows=8, context_length=8192)
    assert Room(1, 3000, 3000) == fixed_room(3000 * TOKEN_BYTES, TOKEN_BYTES, rows=8, context_length=8192)


def test_a_short_context_always_works() -> None:
    """Even with hardly any memory there is room for a short context."""
    for room in (shared_room, fixed_room):
        assert MIN_TOKENS == room(-1, TOKEN_BYTES, rows=8, context_length=8192).context_length


def test_fixed_rows_are_as_many_as_fit() -> None:
    """If each row takes a full context, fewer requests run at once, but none with a shorter context."""
    assert Room(3, 4096, 3 * 4096) == fixed_room(14_000 * TOKEN_BYTES, TOKEN_BYTES, rows=8, context_length=4096)
