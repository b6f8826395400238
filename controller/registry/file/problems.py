"""A problem in a file, and its text: always one line."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

KeyPath: TypeAlias = tuple[str | int, ...]

_MAX_LENGTH = 60


@dataclass(frozen=True, order=True)
class Problem:
    """A problem at a line: the field, what is wrong with it, and what to write."""

    line: int
    field: str
    text: str

    def render(self, file: str) -> str:
        return f"{file}:{self.line}: {self.field}: {self.text}"


class FileRefused(Exception):
    """The file is invalid; carries every problem found."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__(f"{len(problems)} problems")
        self.problems = problems


class FileBroken(FileRefused):
    """The file cannot be read any further; carries the one problem that prevents it."""

    def __init__(self, line: int, field: str, text: str) -> None:
        super().__init__([Problem(line, field, text)])


def one_line(text: str, longest: int = _MAX_LENGTH) -> str:
    """Return the text cut to a length, with every unprintable character escaped."""
    cut = text if len(text) <= longest else text[: longest - 1] + "…"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in cut)


def quoted(text: str) -> str:
    """Return the text in double quotes, on one line, as it could be written in the file."""
    return f'"{one_line(text)}"'


def field_name(path: KeyPath) -> str:
    """Return the name of a path, such as `models.tiny-llama.aliases[0]`; `file` for the whole file."""
    name = ""
    for part in path:
        name += f"[{part}]" if isinstance(part, int) else f".{one_line(part) or quoted(part)}"
    return name.removeprefix(".") or "file"


def describe(value: object) -> str:
    """Return what a value is, as the first half of a sentence about a field."""
    if value is None:
        return "is empty"
    if isinstance(value, bool):
        return f"is {json.dumps(value)}"
    if isinstance(value, (int, float)):
        return f"is the number {value}"
    if isinstance(value, str):
        return f"is the text {quoted(value)}"
    return "is a list" if isinstance(value, (list, tuple)) else "is a mapping"


def closest(word: str, choices: Iterable[str]) -> str | None:
    """Return the choice that the user most likely meant; None if no choice is similar."""
    matches = difflib.get_close_matches(word[:_MAX_LENGTH].lower(), sorted(choices), n=1, cutoff=0.6)
    return matches[0] if matches else None
