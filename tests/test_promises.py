"""The promises, their page and their mutations stay in step with the tree. Nothing here runs a test of a promise."""

from __future__ import annotations

import ast
import importlib
import subprocess
from pathlib import Path

import pytest

from controller.settings import ROOT
from tests.docker.house import House
from tests.promises import mutants
from tests.promises.listed import PROMISES, files_of, promise_of
from tests.promises.mutation import Mutation, declared
from tests.promises.table import PAGE, NeverUp, Outcome, as_text, figures_in, rewritten

FILES = [file for promise in PROMISES for file in files_of(promise)]
MUTATIONS = [pytest.param(file, mutation, id=file.stem) for _, file, mutation in declared()]


def test_the_page_lists_every_promise() -> None:
    """docs/reliability.md holds each promise in words and the files of its tests as they are now.

    `python -m tests.promises.page` corrects the table.
    """
    page = PAGE.read_text(encoding="utf-8")
    assert page == rewritten(page, figures_in(page))
    assert list(PROMISES) == list(figures_in(page))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_file_keeps_to_its_promise(file: Path) -> None:
    """All tests in a promise's file bear its name, so that its verdict counts them all."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    names = [
        node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]
    assert names != []
    assert {promise_of(name) for name in names} == {promise_of(file.name)}


@pytest.mark.parametrize(("file", "mutation"), MUTATIONS)
def test_mutations_have_not_rotted(file: Path, mutation: Mutation) -> None:
    """The line that a mutation replaces stands once in the product, what comes out is Python, and the test exists."""
    ast.parse(mutation.applied((ROOT / mutation.path).read_text(encoding="utf-8")))
    assert f"def {mutation.caught_by}(" in file.read_text(encoding="utf-8")


def test_every_promise_can_be_broken() -> None:
    """Each promise has a mutation beside one of its tests."""
    assert set(PROMISES) == {promise for promise, _, _ in declared()}


def test_a_product_that_does_not_come_up_is_no_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mutant under which no controller ever serves is not caught; one whose controller does not come back is."""
    house = House(tmp_path, "models: {}")
    monkeypatch.setattr(house, "launch", lambda *_: subprocess.Popen(["false"]))
    house.log_file.touch()
    with pytest.raises(NeverUp) as never_up:
        house.start()
    outcome = Outcome()
    outcome.note("test_x", has_passed=False, error=never_up.value)
    assert "ERROR" == outcome.verdict
    monkeypatch.setattr(house, "_was_up", True)
    with pytest.raises(AssertionError) as failure:
        house.start()
    outcome.note("test_x", has_passed=False, error=failure.value)
    assert "BROKEN" == outcome.verdict


def test_a_test_over_its_time_limit_is_noted() -> None:
    """A test over its time limit has failed, and its promise's outcome tells it from one that failed otherwise."""
    outcome = Outcome()
    with pytest.raises(pytest.fail.Exception) as time_limit:
        pytest.fail(importlib.import_module("pytest_timeout").PYTEST_FAILURE_MESSAGE % 90.0)
    outcome.note("test_slow", has_passed=False, error=time_limit.value)
    outcome.note("test_wrong", has_passed=False, error=AssertionError("not within 30 s"))
    assert ["test_slow", "test_wrong"] == outcome.failed
    assert ["test_slow"] == outcome.timed_out


@pytest.mark.parametrize(("alone", "exit_code"), [("timed out", 0), ("caught", 0), ("SURVIVED", 1), ("no verdict", 1)])
def test_a_mutant_that_timed_out_is_judged_alone(monkeypatch: pytest.MonkeyPatch, alone: str, exit_code: int) -> None:
    """A time-out beside other mutants is no verdict: after they have ended, the mutant runs again, and that counts."""
    mutation = Mutation("some.py", "x = 1", "x = 2", "test_x")
    attempts: list[str] = []

    def verdict_on(_copy: mutants.Copy, mutant: mutants.Mutant) -> str:
        if mutant.promise == "F1":
            return "caught"
        attempts.append(mutant.promise)
        return "timed out" if len(attempts) == 1 else alone

    declarations = [(promise, Path("test_x.py"), mutation) for promise in ("L1", "F1")]
    monkeypatch.setattr(mutants, "declared", lambda: declarations)
    monkeypatch.setattr(mutants.Copy, "fill", lambda _copy: None)
    monkeypatch.setattr(mutants.Copy, "verdict_on", verdict_on)
    assert exit_code == mutants.main()
    assert ["L1", "L1"] == attempts


def test_a_mutation_that_does_not_fit_is_an_error() -> None:
    """A line that is gone, or stands there twice, is an error and never a mutation of nothing."""
    mutation = Mutation("some.py", "x = 1", "x = 2", "test_x")
    with pytest.raises(ValueError, match="0 times"):
        mutation.applied("y = 1")
    with pytest.raises(ValueError, match="2 times"):
        mutation.applied("x = 1\nx = 1")


def test_the_table_shows_every_verdict() -> None:
    """A promise with one failed test is broken whatever else passed; one without tests is not said to hold."""
    outcomes = {
        "L1": Outcome(passes=["a"], figures={"creations": "1", "starts": "1"}),
        "L2": Outcome(passes=["a"], failed=["b"]),
    }
    first, second, third, *_ = as_text(outcomes).splitlines()
    assert "L1   holds      creations 1, starts 1" == first
    assert "L2   BROKEN" == second
    assert "L3   not tested" == third
