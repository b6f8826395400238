"""Patterns and formats of strings: a grammar allows only values that have them."""

from __future__ import annotations

import random
import re
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from tests.runner.grammar.test_json_schema import refusal, samples


@pytest.mark.parametrize(
    "pattern",
    [
        "^[A-Z]{2}-\\d{4}$", "^[a-z0-9]+(-[a-z0-9]+)*$", "^(foo|ba[rz])?$", "^[^@\\s]+@[\\w.-]+\\.(com|org)$", "a|b$",
        "^\\+?[0-9 ()-]{7,20}$", "^.{0,5}$", "^#[0-9a-fA-F]{6}$", "\\\"\\\\", "^[\\u00e0-\\u00ff]+$", "^\\S+$",
        "[\\]\\-^a]", "^(?:ab){2,3}?$", "^$", "x*", "^[^,]*$", "^\\W\\D$", "a\\nb", "^[\\d,-]+$", "\\x41\\/", "[a-]",
        "^(a|ab)(c|bcd)*$", "^(a?)*b$", "^([a-z]{1,3}){2,4}$", "^(\\d{1,3}\\.){3}\\d{1,3}$",
    ],
)  # fmt: skip
def test_values_match_their_pattern(pattern: str) -> None:
    """Every value that the grammar allows matches, and is JSON."""
    schema = {"type": "string", "pattern": pattern}
    for value in samples(schema, random.Random(3), 60):
        assert re.search(pattern, value), value
        Draft202012Validator(schema).validate(value)


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("(?=a)b", "(?=…)"), ("a(b", "open"), ("a)", "closes"), ("\\bword", "\\b"), ("\\p{L}", "\\p"),
        ("(a)\\1", "\\1"), ("a^b", '"^"'), ("a$b", '"$"'), ("*a", '"*"'), ("[b-a]", "range"), ("[a", "ends too early"),
        ("a{3,1}", "from 3 to 1"), ("((a{99}){99}){99}", "states"), ("(a|b)*a(a|b){20}", "states"),
        ("\\u00e", "digits"), ("([a-z]{1,9}-){2,99}", "compile"), ("\x01", "cannot be written"),
        ("[]a]", "cannot be written"), ("(" * 20 + ")" * 20, "groups"),
        ("a" * 2000, "1000 characters"), ("[a-z]{700}", "compile"),
    ],
)  # fmt: skip
def test_unsupported_patterns_are_refused(pattern: str, says: str) -> None:
    """The refusal names the unsupported part."""
    assert says in refusal({"type": "string", "pattern": pattern})


@pytest.mark.parametrize("format_name", ["date", "time", "date-time", "uuid", "ipv4", "email"])
def test_values_have_their_format(format_name: str) -> None:
    """A date, a time or an id can be read as one."""
    import datetime
    import ipaddress
    import uuid

    read: Any = {
        "date": datetime.date.fromisoformat,
        "time": lambda text: datetime.time.fromisoformat(re.sub(r"\.\d+", "", text).replace("Z", "+00:00")),
        "date-time": lambda text: datetime.datetime.fromisoformat(re.sub(r"\.\d+", "", text).replace("Z", "+00:00")),
        "uuid": uuid.UUID,
        "ipv4": ipaddress.IPv4Address,
        "email": re.compile(r"[^@\s]+@[^@\s]+\.[a-z]+").fullmatch,
    }[format_name]
    for value in samples({"type": "string", "format": format_name}, random.Random(5), 200):
        assert read(value) is not None
