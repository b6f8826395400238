"""L4: a model that does not fit makes room by a rule that `GET /plan` shows."""

from __future__ import annotations

import time

from tests.conftest import Figure
from tests.docker.conftest import Build
from tests.docker.house import House
from tests.errorshape import check_error
from tests.promises.mutation import Mutation

# Two of 100 MB fit; three do not, even if the fake turns out to use little.
SMALL = {"resources": {"cpus": 1, "memory": "100m"}, "min_residency": "1s"}
BUDGET = {"memory_budget": "200m"}
MUTATION = Mutation(
    "controller/supervisor/memory/placement.py",
    "pinned = [holder for holder in holders if holder.pinned]",
    "pinned = []",
    "test_l4_what_may_not_go_is_named",
)


def test_l4_the_least_useful_goes(build_house: Build, figure: Figure) -> None:
    """Of two idle models the one that was unused for longer is stopped for a third, as `GET /plan` said before; the
    other one keeps serving, and the stopped one comes back at its next request."""
    house = build_house({"old": SMALL, "new": SMALL, "third": SMALL}, top=BUDGET)
    for model_id in ("old", "new"):
        assert house.ask(model_id, "hello").ok
    time.sleep(1.2)
    assert house.ask("new", "hello").ok
    plan = house.get("/plan?model_id=third").json()
    assert ["old"] == plan["would_stop"]
    assert {"old", "new"} == running(house)
    with house.counted_events("die") as died:
        assert "third" == house.ask("third", "third").json()["text"]
    figure("budget", "2 models")
    figure("stopped", len(died))
    assert 1 == len(died)
    assert {"new", "third"} == running(house)
    time.sleep(1.2)
    assert "back" == house.ask("old", "back").json()["text"]


def test_l4_what_may_not_go_is_named(build_house: Build) -> None:
    """While pinned models use the whole budget a third one gets 503 at once, which names them."""
    pinned = {**SMALL, "pinned": True}
    house = build_house({"one": pinned, "two": pinned, "third": SMALL}, top=BUDGET)
    for model_id in ("one", "two"):
        assert house.ask(model_id, "hello").ok
    refusal = house.ask("third", "hello")
    error = check_error(refusal.status_code, refusal.json(), 503, "insufficient_memory")
    assert {"one", "two"} == set(error["details"]["held_by"])
    assert {"one", "two"} == running(house)


def running(house: House) -> set[str]:
    return {row["id"] for row in house.get("/models").json()["models"] if row["state"] == "ready"}
