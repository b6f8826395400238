"""GGUF models that are split into several files: `name-00001-of-00003.gguf` and so on, llama.cpp's names. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection

_PART = re.compile(r"-(\d{5})-of-(\d{5})(?=\.gguf$)", re.IGNORECASE)


def model_of(name: str) -> str:
    """Return the file's name without its number among the parts: the same for all parts of a model."""
    return _PART.sub("", name)


def parts_of(name: str) -> list[str]:
    """Return the names of all parts of the model that this file is a part of, in order; its own if it is whole."""
    match = _PART.search(name)
    if match is None or int(match[2]) == 0:
        return [name]
    return [_PART.sub(f"-{number:05}-of-{match[2]}", name) for number in range(1, int(match[2]) + 1)]


def number_of(name: str) -> str:
    """Return the part's number as it stands in its name, such as `-00001-of-00003`; empty if the file is whole."""
    match = _PART.search(name)
    return match[0] if match else ""


def missing_parts(names: Collection[str]) -> list[str]:
    """Return the parts that belong to some of these files and are not among them."""
    return sorted({part for name in names for part in parts_of(name)}.difference(names))
