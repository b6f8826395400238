"""One line of the product changed, and the test that must notice it."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from controller.settings import ROOT
from tests.promises.listed import PROMISES, files_of


@dataclass(frozen=True)
class Mutation:
    """`old` stands once in the file `path` of the product; with `new` in its place `caught_by` fails."""

    path: str
    old: str
    new: str
    caught_by: str

    def applied(self, text: str) -> str:
        """Return the mutated file. Raises ValueError if the product no longer has that line, or has it twice."""
        if text.count(self.old) != 1:
            raise ValueError(f"{self.path} holds {self.old!r} {text.count(self.old)} times, but must hold it once")
        return text.replace(self.old, self.new)


def declared() -> Iterator[tuple[str, Path, Mutation]]:
    """Yield promise, test file and mutation of every `MUTATION` that stands beside the tests."""
    for promise in PROMISES:
        for file in files_of(promise):
            module = importlib.import_module(".".join(file.relative_to(ROOT).with_suffix("").parts))
            mutation = getattr(module, "MUTATION", None)
            if isinstance(mutation, Mutation):
                yield promise, file, mutation
