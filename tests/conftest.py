"""The figures and verdicts of the promises' tests."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Generator
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import settings

from tests.promises.listed import promise_of
from tests.promises.table import Outcome, as_text

# How long an example takes depends on the machine alone.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
# `pytest --hypothesis-profile=long`: many more examples. If CI is set, hypothesis takes the same ones each time, so
# that a failure there came with the change.
settings.register_profile("long", max_examples=2000)
OUTCOMES = pytest.StashKey[dict[str, Outcome]]()
Figure = Callable[[str, object], None]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--promises", metavar="FILE", help="run only the tests of promises; print their table and write it as JSON"
    )
    parser.addoption("--soak-minutes", metavar="MINUTES", help="run the soak for this long")
    parser.addoption("--soak-seed", metavar="NUMBER", help="repeat the choices of an earlier soak")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[OUTCOMES] = defaultdict(Outcome)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    def is_wanted(item: pytest.Item) -> bool:
        if item.get_closest_marker("soak"):
            return bool(config.getoption("--soak-minutes"))
        return not config.getoption("--promises") or promise_of(item.name) is not None

    config.hook.pytest_deselected(items=[item for item in items if not is_wanted(item)])
    items[:] = sorted(filter(is_wanted, items), key=lambda item: item.get_closest_marker("long") is None)


@pytest.fixture
def figure(record_property: Callable[[str, object], None]) -> Figure:
    """Record a figure that a promise names: `figure("creations", 1)`, `figure("error after", "0.3 s")`."""
    return record_property


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    promise = promise_of(item.name)
    if promise is None:
        return report
    outcome = item.config.stash[OUTCOMES][promise]
    if report.when == "call":
        outcome.note(item.nodeid, has_passed=report.passed, error=call.excinfo.value if call.excinfo else None)
        outcome.figures.update({name: str(value) for name, value in report.user_properties})
    elif report.failed:
        outcome.broken_setups.append(item.nodeid)
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    path = config.getoption("--promises")
    if path:
        outcomes = config.stash[OUTCOMES]
        terminalreporter.section("promises")
        terminalreporter.write_line(as_text(outcomes))
        document = {
            promise: {**asdict(outcome), "verdict": outcome.verdict, "figures_text": outcome.figures_text}
            for promise, outcome in outcomes.items()
        }
        Path(path).write_text(json.dumps(document, indent=2), encoding="utf-8")
