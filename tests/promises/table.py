"""Promise → verdict → figure, as text and as the table of docs/reliability.md."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from controller.settings import ROOT
from tests.promises.listed import PROMISES, files_of

PAGE = ROOT / "docs" / "reliability.md"
HEAD = "| promise | in words | test | figures |\n|---|---|---|---|\n"
_TABLE = re.compile(re.escape(HEAD) + r"(?:\|.*\n)*")


class NeverUp(Exception):
    """The product did not come up at all, which proves nothing of a promise that is about something else."""


@dataclass
class Outcome:
    """What the tests of one promise said."""

    failed: list[str] = field(default_factory=list)
    passed: list[str] = field(default_factory=list)
    broken_setups: list[str] = field(default_factory=list)
    figures: dict[str, str] = field(default_factory=dict)

    def note(self, test: str, *, passed: bool, error: BaseException | None) -> None:
        """What a test came to, its set-up done; one whose product did not come up is a broken set-up all the same."""
        if isinstance(error, NeverUp):
            self.broken_setups.append(test)
        else:
            (self.passed if passed else self.failed).append(test)

    @property
    def verdict(self) -> str:
        if self.failed:
            return "BROKEN"
        if self.broken_setups:
            return "ERROR"
        return "holds" if self.passed else "not tested"

    @property
    def told(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in self.figures.items())


def as_text(outcomes: Mapping[str, Outcome]) -> str:
    """One line a promise."""
    rows = [(promise, outcomes.get(promise, Outcome())) for promise in PROMISES]
    return "\n".join(f"{promise:4} {outcome.verdict:10} {outcome.told}".rstrip() for promise, outcome in rows)


def table_of(page: str) -> str:
    """The table as it stands in the page."""
    found = _TABLE.search(page)
    if found is None:
        raise ValueError(f"{PAGE.name} has no table that begins with {HEAD.splitlines()[0]!r}")
    return found.group()


def figures_in(page: str) -> dict[str, str]:
    """Promise → figures, as the page has them."""
    rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in table_of(page).splitlines()[2:])
    return {row[0]: row[3] for row in rows}


def rewritten(page: str, figures: Mapping[str, str]) -> str:
    """The page with the promises and tests of today, and these figures."""
    rows = [
        f"| {promise} | {words} | {_linked(files_of(promise))} | {figures.get(promise, '')} |\n"
        for promise, words in PROMISES.items()
    ]
    return page.replace(table_of(page), HEAD + "".join(rows))


def _linked(files: Iterable[Path]) -> str:
    links = [f"[{file.stem}](../{file.relative_to(ROOT).as_posix()})" for file in files]
    return ", ".join(links) or "not yet"
