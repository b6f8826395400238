"""One thing that is wrong in a file, and how it is shown: always one line."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

KeyPath: TypeAlias = tuple[str | int, ...]

_LONGEST_SHOWN = 60


@dataclass(frozen=True, order=True)
class Problem:
    """Something wrong at a line: which field, what is wrong, what to write."""

    line: int
    field: str
    text: str

    def render(self, file: str) -> str:
        return f"{file}:{self.line}: {self.field}: {self.text}"


class FileRefused(Exception):
    """The file does not hold; carries all its problems."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__(f"{len(problems)} problems")
        self.problems = problems


class FileBroken(FileRefused):
    """The file cannot be read any further; the one problem is all that is known."""

    def __init__(self, line: int, field: str, text: str) -> None:
        super().__init__([Problem(line, field, text)])


def one_line(text: str, longest: int = _LONGEST_SHOWN) -> str:
    """The text cut to a length, with every character that cannot be printed escaped."""
    cut = text if len(text) <= longest else text[: longest - 1] + "…"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in cut)


def quoted(text: str) -> str:
    """The text in double quotes, on one line, as it could stand in the file."""
    return f'"{one_line(text)}"'


def field_name(path: KeyPath) -> str:
    """`models.tiny-llama.aliases[0]` for a path; `file` for the whole file."""
    shown = ""
    for part in path:
        shown += f"[{part}]" if isinstance(part, int) else f".{one_line(part) or quoted(part)}"
    return shown.removeprefix(".") or "file"


def describe(value: object) -> str:
    """What a value is, as the first half of a sentence about a field."""
    if value is None:
        return "is empty"
    if isinstance(value, bool):
        return f"is {json.dumps(value)}"
    if isinstance(value, (int, float)):
        return f"is the number {value}"
    if isinstance(value, str):
        return f"is the text {quoted(value)}"
    return "is a list" if isinstance(value, (list, tuple)) else "is a mapping"


def closest(word: str, known: Iterable[str]) -> str | None:
    """The known word that was most likely meant."""
    found = difflib.get_close_matches(word[:_LONGEST_SHOWN].lower(), sorted(known), n=1, cutoff=0.6)
    return found[0] if found else None
