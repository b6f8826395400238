"""Units of memory and of files, in bytes."""

MIB = 1 << 20
GIB = 1024 * MIB
TIB = 1024 * GIB


def write_bytes(count: int) -> str:
    """Return a number of bytes for a sentence, in the unit that suits it."""
    return f"{count / GIB:.1f} GiB" if count >= GIB else f"{count / MIB:.1f} MiB"
