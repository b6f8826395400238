"""Rules for single values: each says what is wrong and what to write, and has its own JSON schema."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from controller.registry.file.problems import closest, describe
from controller.registry.file.quantities import (
    DURATION_PATTERN,
    SIZE_PATTERN,
    duration_s,
    size_bytes,
    write_duration,
    write_size,
)


@dataclass(frozen=True, eq=False)
class Rule:
    """What a value must be. `parse` returns the value to keep or raises ValueError with the whole sentence."""

    parse: Callable[[object], Any]
    json: dict[str, Any]

    def __get_pydantic_core_schema__(self, _source: object, _handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.parse)

    def __get_pydantic_json_schema__(self, _schema: CoreSchema, _handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return dict(self.json)


def refusal(value: object, write: str, why: str = "") -> ValueError:
    """Return the error for an invalid value: what the value is, why it is invalid, and what to write."""
    parts = [describe(value), why, f"write {write}" + (", or remove the key" if value is None else "")]
    return ValueError("; ".join(part for part in parts if part))


def _unquoted(value: object) -> str:
    return " without quotes" if isinstance(value, str) and re.fullmatch(r"[-+]?[0-9.]+|true|false", value) else ""


def flag() -> Rule:
    """Return the rule for true and false."""

    def parse(value: object) -> bool:
        if not isinstance(value, bool):
            raise refusal(value, f"true or false{_unquoted(value)}")
        return value

    return Rule(parse, {"type": "boolean"})


def whole(low: int, high: int, *, example: int, why: str) -> Rule:
    """Return the rule for whole numbers within bounds; `why` is the reason for the bounds."""

    def parse(value: object) -> int:
        write = f"a whole number from {low} to {high}{_unquoted(value)}, such as {example}"
        if isinstance(value, bool) or not isinstance(value, int):
            raise refusal(value, write)
        if not low <= value <= high:
            raise refusal(value, write, why)
        return value

    return Rule(parse, {"type": "integer", "minimum": low, "maximum": high})


def number(low: float, high: float, *, example: float, why: str) -> Rule:
    """Return the rule for finite numbers within bounds."""

    def parse(value: object) -> float:
        write = f"a number from {low:g} to {high:g}{_unquoted(value)}, such as {example:g}"
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise refusal(value, write)
        if not low <= value <= high:
            raise refusal(value, write, why)
        return float(value)

    return Rule(parse, {"type": "number", "minimum": low, "maximum": high})


def choice(*options: str) -> Rule:
    """Return the rule for one of a few words."""

    def parse(value: object) -> str:
        if isinstance(value, str) and value in options:
            return value
        guess = closest(value, options) if isinstance(value, str) else None
        others = f"one of {', '.join(options)}" if len(options) > 1 else options[0]
        raise refusal(value, others, f"did you mean {guess}?" if guess else "")

    return Rule(parse, {"type": "string", "enum": list(options)})


def duration(low_s: float, high_s: float, *, example: str, why: str, zero: str = "") -> Rule:
    """Return the rule for seconds within bounds; `zero` is the meaning of 0 if 0 is allowed below the lowest bound."""
    bounds = f"a duration from {write_duration(low_s)} to {write_duration(high_s)}, such as {example}"
    write = bounds + (f", or 0: {zero}" if zero else "")

    def parse(value: object) -> float:
        seconds = duration_s(value)
        if seconds is None:
            raise refusal(value, write)
        if not (low_s <= seconds <= high_s or (zero and seconds == 0)):
            raise refusal(value, write, why)
        return seconds

    return Rule(parse, {"type": ["string", "number"], "pattern": _or_seconds(DURATION_PATTERN), "minimum": 0})


def _or_seconds(pattern: str) -> str:
    return rf"^(?:[0-9]{{1,9}}|{pattern.removeprefix('^').removesuffix('$')})$"


def size(low_bytes: int, high_bytes: int, *, example: str, why: str, word: str | None = None) -> Rule:
    """Return the rule for bytes within bounds; `word` is read as None, which leaves the choice to Orchestrar."""
    bounds = f"a size from {write_size(low_bytes)} to {write_size(high_bytes)}, such as {example}"
    write = f"{word} or {bounds}" if word else bounds

    def parse(value: object) -> int | None:
        if word is not None and value == word:
            return None
        count = size_bytes(value)
        if count is None:
            raise refusal(value, write)
        if not low_bytes <= count <= high_bytes:
            raise refusal(value, write, why)
        return count

    pattern = rf"^(?:{word}|{SIZE_PATTERN[1:-1]})$" if word else SIZE_PATTERN
    return Rule(parse, {"type": ["string", "integer"], "pattern": pattern, "minimum": low_bytes})


def text(
    write: str, *, longest: int, pattern: str = "", parse: Callable[[str], Any] = str, editor_pattern: str = ""
) -> Rule:
    """Return the rule for text that matches a pattern.

    `parse` may raise a ValueError of its own for other texts; `editor_pattern` describes to editors which these are.
    """
    compiled_pattern = re.compile(pattern or r"(?s).*")

    def check(value: object) -> Any:
        if not isinstance(value, str):
            raise refusal(value, "it in quotes" if isinstance(value, (bool, int, float)) else write)
        if len(value) > longest:
            raise refusal(value, write, f"longer than {longest} characters")
        if "\0" in value or not _encodable(value):
            raise refusal(value, write, "it contains a character that cannot be passed to a program")
        if not compiled_pattern.fullmatch(value):
            raise refusal(value, write)
        return parse(value)

    schema: dict[str, Any] = {"type": "string", "maxLength": longest}
    if editor_pattern or pattern:
        schema["pattern"] = editor_pattern or pattern
    return Rule(check, schema)


def _encodable(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def one_or_many(rule: Rule, *, most: int, write: str) -> Rule:
    """Return the rule for one value or a list of up to `most`; the result is always a tuple."""

    def parse(value: object) -> tuple[Any, ...]:
        values: Sequence[object] = value if isinstance(value, list) else [value]
        if len(values) > most:
            raise ValueError(f"has {len(values)} entries; write at most {most}")
        if value is None or isinstance(value, dict):
            raise refusal(value, write)
        return tuple(rule.parse(item) for item in values)

    return Rule(parse, {"anyOf": [rule.json, {"type": "array", "items": rule.json, "maxItems": most}]})
