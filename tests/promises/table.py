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
# What pytest-timeout fails a test with.
_TIME_LIMIT = re.compile(r"Timeout \(>\S+s\) from pytest-timeout")


class NeverUp(Exception):
    """The product did not come up at all, which proves nothing about a promise that is about something else."""


@dataclass
class Outcome:
    """What the tests of one promise came to; of `failed`, those over their time limit are in `timed_out` too."""

    failed: list[str] = field(default_factory=list)
    passes: list[str] = field(default_factory=list)
    timed_out: list[str] = field(default_factory=list)
    broken_setups: list[str] = field(default_factory=list)
    figures: dict[str, str] = field(default_factory=dict)

    def note(self, test: str, *, has_passed: bool, error: BaseException | None) -> None:
        """Add a test whose set-up worked; if the product did not come up in it, it counts as a broken set-up."""
        if isinstance(error, NeverUp):
            self.broken_setups.append(test)
        elif has_passed:
            self.passes.append(test)
        else:
            self.failed.append(test)
            if _TIME_LIMIT.match(str(error)):
                self.timed_out.append(test)

    @property
    def verdict(self) -> str:
        if self.failed:
            return "BROKEN"
        if self.broken_setups:
            return "ERROR"
        return "holds" if self.passes else "not tested"

    @property
    def figures_text(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in self.figures.items())


def as_text(outcomes: Mapping[str, Outcome]) -> str:
    """Return one line for each promise."""
    rows = [(promise, outcomes.get(promise, Outcome())) for promise in PROMISES]
    return "\n".join(f"{promise:4} {outcome.verdict:10} {outcome.figures_text}".rstrip() for promise, outcome in rows)


def table_of(page: str) -> str:
    """Return the table as it stands in the page."""
    match = _TABLE.search(page)
    if match is None:
        raise ValueError(f"{PAGE.name} has no table that begins with {HEAD.splitlines()[0]!r}")
    return match.group()


def figures_in(page: str) -> dict[str, str]:
    """Return promise → figures, as the page has them."""
    rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in table_of(page).splitlines()[2:])
    return {row[0]: row[3] for row in rows}


def rewritten(page: str, figures: Mapping[str, str]) -> str:
    """Return the page with the present promises and tests, and these figures."""
    rows = [
        f"| {promise} | {words} | {_links_to(files_of(promise))} | {figures.get(promise, '')} |\n"
        for promise, words in PROMISES.items()
    ]
    return page.replace(table_of(page), HEAD + "".join(rows))


def _links_to(files: Iterable[Path]) -> str:
    links = [f"[{file.stem}](../{file.relative_to(ROOT).as_posix()})" for file in files]
    return ", ".join(links) or "not yet"
