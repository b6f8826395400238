"""What a prepare container writes: lines of JSON about its progress, at its end facts or an error, and other lines."""

from __future__ import annotations

import json
from typing import Any


def last_object(lines: list[str]) -> dict[str, Any]:
    """Return the last line that is a JSON object; empty if there is none."""
    return next((value for line in reversed(lines) if (value := _json_object(line)) is not None), {})


def last_error(lines: list[str]) -> tuple[str, bool] | None:
    """Return the sentence of the last `{"error": …}` line, and whether another engine may serve the model."""
    for line in reversed(lines):
        value = _json_object(line) or {}
        if isinstance(value.get("error"), str):
            return " ".join(value["error"].split()), value.get("unfit") is True
    return None


def last_words(lines: list[str]) -> str:
    """Return the last line that is no JSON, which is never about progress; empty if there is none."""
    return next((line.strip() for line in reversed(lines) if line.strip() and _json_object(line) is None), "")


def _json_object(line: str) -> dict[str, Any] | None:
    if not line.startswith("{"):
        return None
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
