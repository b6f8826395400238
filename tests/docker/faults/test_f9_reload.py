"""F9: models.yaml is followed while models serve."""

from __future__ import annotations

import json
from typing import Any

from tests.conftest import Figure
from tests.docker.conftest import Build
from tests.docker.faults.streams import Reader
from tests.docker.house import House, until
from tests.errorshape import check_error
from tests.promises.mutation import Mutation

MUTATION = Mutation(
    "controller/reloading.py",
    "if was[model_id] != will_be[model_id]",
    "if model_id in was",
    "test_f9_only_what_changed_is_made_anew",
)
BROKEN = [
    "models:\n  a: {source: [",
    "",
    "models: {}\n",
    "models:\n  a:\n    sauce: file:///nowhere\n",
    "\x00",
    "models: 3\n",
]


def rewrite(house: House, change: Any) -> None:
    """Let `change` have its way with what models.yaml says."""
    path = house.folder / "models.yaml"
    found = json.loads(path.read_text())
    change(found["models"])
    path.write_text(json.dumps(found))


def test_f9_a_broken_file_keeps_the_old_one(build_house: Build, figure: Figure) -> None:
    """Whatever stands in the file by mistake, the models go on; `/health` and `/models` name the line; `POST /reload`
    says it, too. When the file is right again, so is `/health`, without a word from anybody."""
    house = build_house({"a": {}})
    assert house.ask("a", "hello").ok
    (container,) = house.containers("a")
    right = (house.folder / "models.yaml").read_text()
    for text in BROKEN:
        house.write_models(text)
        refused = house.post("/reload", {})
        error = check_error(refused.status_code, refused.json(), 400, "config_invalid")
        assert "models.yaml" in error["message"]
        shown = house.get("/health").json()
        assert ("degraded", False) == (shown["status"], shown["config"]["ok"])
        assert error["details"]["problems"] == house.get("/models").json()["config"]["problems"]
        assert "still" == house.ask("a", "still").json()["text"]
    house.write_models(right)
    until("the file is followed again", lambda: house.get("/health").json()["status"] == "ok", 10)
    assert [container] == house.containers("a")
    figure("broken files", len(BROKEN))


def test_f9_only_what_changed_is_made_anew(build_house: Build, figure: Figure) -> None:
    """One model's service changes, another is removed, a third is added, and the rest keeps its container. What was in
    flight ends whole; requests meanwhile wait and are answered by the new one."""
    house = build_house({"same": {}, "changed": {}, "removed": {}})
    for model_id in ("same", "changed", "removed"):
        assert house.ask(model_id, "hello").ok
    (same,), (changed,) = house.containers("same"), house.containers("changed")
    streams = [Reader(house.ask(m, {"tokens": 20, "delay_s": 0.1}, stream=True)) for m in ("changed", "removed")]
    assert all(stream.begun.wait(30) for stream in streams)

    def change(models: Any) -> None:
        models["changed"]["env"] = {"NEW": "1"}
        models["same"]["max_queue"] = 5
        models["added"] = models.pop("removed")

    rewrite(house, change)
    plan = house.post("/reload?dry_run=1", {}).json()
    assert (["added"], ["removed"], ["changed"], ["same"]) == tuple(
        plan[key] for key in ("added", "removed", "remade", "adjusted")
    )
    until("it is followed", lambda: house.ask("removed", "x").status_code == 404, 20)
    assert house.post("/reload", {}).ok
    until("it is made anew", lambda: house.containers("changed") not in ([], [changed]), 20)
    assert "new" == house.ask("changed", "new").json()["text"]
    for stream in streams:
        last = stream.read()[-1]
        assert last is not None
        assert last.get("done"), last
    assert [same] == house.containers("same")
    until("the removed one is gone", lambda: house.containers("removed") == [], 20)
    assert "hi" == house.ask("added", "hi").json()["text"]
    figure("streams cut", 0)
