"""The failure card: one type, built by one function, and without what does not apply."""

from __future__ import annotations

import ast
from datetime import UTC, datetime, timedelta

from controller.settings import ROOT
from controller.supervisor.failures.card import failure_card, with_retry_at
from tests.fakes import make_container

HOME = "controller/supervisor/failures/card.py"
FIELDS = {"exit_code", "oom_killed", "memory_peak_bytes", "fix", "retry_at"}


def test_a_card_shows_all_that_is_known() -> None:
    """Docker's evidence, the samples, the log and the fix, each under its name."""
    container = make_container(status="exited", exit_code=137, oom_killed=True, health="unhealthy")
    card = failure_card("starting", container, log=["one", "two"], fix="raise it", peak_bytes=7)
    assert card.as_details() == {
        "phase": "starting",
        "exit_code": 137,
        "oom_killed": True,
        "health": "unhealthy",
        "memory_limit_bytes": container.memory_limit_bytes,
        "memory_peak_bytes": 7,
        "log": ["one", "two"],
        "fix": "raise it",
    }


def test_a_card_leaves_out_what_does_not_apply() -> None:
    """Without a container there is none of Docker's evidence; phase and log are always there."""
    assert failure_card("preparing").as_details() == {"phase": "preparing", "log": []}


def test_a_running_container_has_no_exit_code() -> None:
    """Docker shows 0 for it, which a reader would take for a clean end."""
    container = make_container(status="running", exit_code=0, memory_limit_bytes=0, health=None)
    assert failure_card("loading", container).as_details() == {"phase": "loading", "oom_killed": False, "log": []}


def test_the_time_of_the_next_try_is_added_to_a_copy() -> None:
    """It is in UTC and whole seconds; the details that it is added to stay as they are."""
    details = failure_card("starting").as_details()
    with_time = with_retry_at(details, 60.0)
    assert {**details, "retry_at": with_time["retry_at"]} == with_time
    assert "retry_at" not in details
    left = datetime.fromisoformat(with_time["retry_at"]) - datetime.now(UTC)
    assert timedelta(seconds=55) < left <= timedelta(seconds=60)


def test_nothing_else_builds_a_card() -> None:
    """No other file writes a field that only cards have as the key of a dict, in a literal or by assignment."""
    builders = set()
    for file in (ROOT / "controller").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            keys: list[ast.expr | None] = []
            if isinstance(node, ast.Dict):
                keys = list(node.keys)
            elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store):
                keys = [node.slice]
            names = {key.value for key in keys if isinstance(key, ast.Constant)}
            if names & FIELDS or {"phase", "log"} <= names:
                builders.add(str(file.relative_to(ROOT)))
    assert builders == {HOME}
