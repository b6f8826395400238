"""Runs the steps in order, skips what is already there, and shows how long each took."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from scripts.setup.console import Console
from scripts.setup.failure import SetupError
from scripts.setup.host import Host
from scripts.setup.layout import Layout
from scripts.setup.shell import Shell


@dataclass(frozen=True, kw_only=True)
class Site:
    """Everything a step works with."""

    layout: Layout
    host: Host
    shell: Shell
    console: Console
    environ: Mapping[str, str] = field(repr=False)
    warnings: list[str] = field(default_factory=list, repr=False)
    """What the user has to know although nothing failed, to be repeated at the end."""

    def say(self, text: str) -> None:
        """Print what the running step is about to do."""
        self.console.say(f"    {text}")

    def warn(self, text: str) -> None:
        """Print a warning, and keep it for the end."""
        self.say(f"warning: {text}")
        self.warnings.append(text)


class Step(Protocol):
    """One thing that must be true of the machine."""

    @property
    def name(self) -> str: ...

    @property
    def slug(self) -> str:
        """Names the log."""

    def already_there(self) -> str | None:
        """Return what is already there, in a few words, or None if `do` is needed. Quick, and changes nothing."""

    def do(self) -> None:
        """Make it true. May be killed at any moment: the next run must be able to finish the work."""


@dataclass(frozen=True)
class Outcome:
    """A row of the table at the end."""

    name: str
    result: str
    seconds: float


def run_steps(site: Site, steps: Iterable[Step]) -> list[Outcome]:
    """Run all steps in order and print their table, also if one raises SetupError, which ends the run."""
    outcomes: list[Outcome] = []
    try:
        for step in steps:
            _run_step(site, step, outcomes)
    finally:
        if outcomes:
            site.console.say(format_table(outcomes))
    return outcomes


def _run_step(site: Site, step: Step, outcomes: list[Outcome]) -> None:
    started_at = time.monotonic()
    result = "failed"
    site.shell.log = site.layout.setup_logs / f"{step.slug}.log"
    try:
        existing = step.already_there()
        if existing is not None:
            result = "already there"
            site.console.say(f"==> {step.name}: already there ({existing})")
            return
        site.console.say(f"==> {step.name}")
        site.shell.log.unlink(missing_ok=True)
        step.do()
        result = "done"
        site.say(f"done in {time.monotonic() - started_at:.1f} s")
    except KeyboardInterrupt:
        result = "interrupted"
        raise
    except SetupError as error:
        if error.log is None and site.shell.log.exists():
            error.log = site.shell.log
        raise
    finally:
        outcomes.append(Outcome(step.name, result, time.monotonic() - started_at))


def format_table(outcomes: list[Outcome]) -> str:
    """Return the steps with their results and seconds, as aligned text."""
    width = max(len("total"), *(len(outcome.name) for outcome in outcomes))
    rows = [f"  {o.name:<{width}}  {o.result:<13}  {o.seconds:7.1f} s" for o in outcomes]
    total = sum(outcome.seconds for outcome in outcomes)
    return "\n".join(["", *rows, f"  {'total':<{width}}  {'':<13}  {total:7.1f} s", ""])
