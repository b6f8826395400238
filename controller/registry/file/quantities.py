"""Durations and sizes as people write them: 15m, 1h30m, 300; 4g, 512m, 1.2g."""

from __future__ import annotations

import re

DURATION_PATTERN = r"^(?=.)(?:[0-9]{1,4}d)?(?:[0-9]{1,6}h)?(?:[0-9]{1,7}m)?(?:[0-9]{1,9}(?:\.[0-9]{1,6})?s)?$"
SIZE_PATTERN = r"^[0-9]{1,12}(?:\.[0-9]{1,6})?(?:[bB]|[kKmMgGtT](?:[iI]?[bB])?)?$"

_DURATION = re.compile(DURATION_PATTERN)
_SIZE = re.compile(SIZE_PATTERN)
_PART = re.compile(r"([0-9.]+)([dhms])")
_UNIT_S = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
_UNIT_BYTES = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def duration_s(value: object) -> float | None:
    """Return the seconds of a written duration (a bare number is seconds); None for anything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, (int, float)):
        return float(value) if 0 <= value < 1e12 else None
    if not isinstance(value, str) or len(value) > 40:
        return None
    if re.fullmatch(r"[0-9]{1,9}", value):
        return float(value)
    if not _DURATION.fullmatch(value):
        return None
    return float(sum(float(number) * _UNIT_S[unit] for number, unit in _PART.findall(value)))


def size_bytes(value: object) -> int | None:
    """Return the bytes of a written size (units of 1024, as in Docker; a bare number is bytes); None for others."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value if value >= 0 else None
    if not isinstance(value, str) or not _SIZE.fullmatch(value):
        return None
    number = value.rstrip("bBiIkKmMgGtT")
    return int(float(number) * _UNIT_BYTES[value[len(number) :][:1].lower()])


def write_size(size: int) -> str:
    """Return the shortest exact way to write a number of bytes."""
    for unit in "tgmk":
        if size and size % _UNIT_BYTES[unit] == 0:
            return f"{size // _UNIT_BYTES[unit]}{unit}"
    return str(size)


def write_duration(seconds: float) -> str:
    """Return a duration of whole seconds in its largest exact unit."""
    for unit in "dhm":
        if seconds and seconds % _UNIT_S[unit] == 0:
            return f"{seconds / _UNIT_S[unit]:.0f}{unit}"
    return f"{seconds:.0f}s" if seconds else "0"
