"""F9: models.yaml is followed while models serve."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.conftest import Figure
from tests.docker.conftest import Build
from tests.docker.docker_gate import Gate
from tests.docker.faults.streams import Reader
from tests.docker.house import House, until
from tests.errorshape import check_error
from tests.promises.mutation import Mutation

MUTATION = Mutation(
    "controller/registry/reload.py",
    "if old_services[m] != new_services[m] or",
    "if m in old_services or",
    "test_f9_only_what_changed_is_made_again",
)
# The file's text → the lines that the error names.
BROKEN_FILES = {
    "models:\n  a: {source: [": [2],
    "": [1],
    "models: {}\n": [1],
    "models:\n  a:\n    sauce: file:///nowhere\n": [2, 3],
    "\x00": [1],
    "models: 3\n": [1],
}


class Asking:
    """Threads that ask models repeatedly."""

    def __init__(self, house: House, names: list[str]) -> None:
        self._house = house
        self._over = threading.Event()
        self._pool = ThreadPoolExecutor(len(names))
        self._futures = [self._pool.submit(self._ask, name) for name in names]

    def end(self) -> int:
        """Stop, and return how many requests there were, all of them answered."""
        self._over.set()
        return sum(future.result(60) for future in self._futures)

    def _ask(self, name: str) -> int:
        count = 0
        while not self._over.is_set():
            answer = self._house.ask(name, f"{name} {count}")
            assert answer.ok, answer.text
            assert f"{name} {count}" == answer.json()["text"]
            count += 1
        return count


def rewrite(house: House, change: Any) -> None:
    """Apply `change` to the models of models.yaml."""
    path = house.folder / "models.yaml"
    document = json.loads(path.read_text())
    change(document["models"])
    path.write_text(json.dumps(document))


def test_f9_a_broken_file_keeps_the_old_one(build_house: Build, figure: Figure) -> None:
    """Whatever mistake is in the file, the models keep running; `/health`, `/models` and `POST /reload` name the line.
    Once the file is right again, so is `/health`, without any request."""
    house = build_house({"a": {}})
    assert house.ask("a", "hello").ok
    (container,) = house.containers("a")
    right = (house.folder / "models.yaml").read_text()
    for text, lines in BROKEN_FILES.items():
        house.write_models(text)
        refusal = house.post("/reload", {})
        error = check_error(refusal.status_code, refusal.json(), 400, "config_invalid")
        assert all(f"models.yaml:{line}: " in error["message"] for line in lines)
        health = house.get("/health").json()
        assert ("degraded", False) == (health["status"], health["config"]["ok"])
        assert error["details"]["problems"] == house.get("/models").json()["config"]["problems"]
        assert "still" == house.ask("a", "still").json()["text"]
    house.write_models(right)
    until("the file is followed again", lambda: house.get("/health").json()["status"] == "ok", 10)
    assert [container] == house.containers("a")
    figure("broken files", len(BROKEN_FILES))


def test_f9_only_what_changed_is_made_again(build_house: Build, figure: Figure) -> None:
    """One model's service changes, another is renamed, and the rest keeps its container. Streams in flight complete,
    and all requests meanwhile are answered, also under the old name that became an alias."""
    house = build_house({"same": {}, "changed": {}, "removed": {}})
    for model_id in ("same", "changed", "removed"):
        assert house.ask(model_id, "hello").ok
    (same,), (changed_container,) = house.containers("same"), house.containers("changed")
    streams = [Reader(house.ask(m, {"tokens": 20, "delay_s": 0.1}, stream=True)) for m in ("changed", "removed")]
    assert all(stream.has_begun.wait(30) for stream in streams)

    def change(models: Any) -> None:
        models["changed"]["env"] = {"NEW": "1"}
        models["same"]["max_queue"] = 5
        models["added"] = {**models.pop("removed"), "aliases": ["alias"]}

    models = json.loads((house.folder / "models.yaml").read_text())
    models["models"]["removed"]["aliases"] = ["alias"]
    house.write_models(json.dumps(models))
    assert house.post("/reload", {}).ok
    rewrite(house, change)
    # Before the controller reads the file, about a second later.
    plan = house.post("/reload?dry_run=1", {}).json()
    asking = Asking(house, ["changed", "alias"])
    assert (["added"], ["removed"], ["changed"], ["same"]) == tuple(
        plan[key] for key in ("added", "removed", "remade", "adjusted")
    )
    until("the change is in force", lambda: house.ask("removed", "x").status_code == 404, 20)
    assert house.post("/reload", {}).ok
    until("it is made again", lambda: house.containers("changed") not in ([], [changed_container]), 20)
    assert "new" == house.ask("changed", "new").json()["text"]
    for stream in streams:
        last = stream.read()[-1]
        assert last is not None
        assert last.get("done"), last
    assert [same] == house.containers("same")
    until("the removed one is gone", lambda: house.containers("removed") == [], 20)
    assert "hi" == house.ask("added", "hi").json()["text"]
    answer_count = asking.end()
    assert answer_count > 10
    figure("streams cut", 0)
    figure("requests lost meanwhile", f"0 of {answer_count}")


def test_f9_ports_change_hands(build_house: Build) -> None:
    """A running model gets the automatic port of another running model; then the two exchange theirs. Streams in flight
    complete, and all requests meanwhile are answered."""
    house = build_house({"a": {}, "b": {}})
    assert house.ask("a", "hello").ok
    asking = Asking(house, ["a", "b"])
    for is_exchange in (False, True):
        ports = {model_id: house.status(model_id)["port"] for model_id in ("a", "b")}
        long = Reader(house.ask("b", {"tokens": 20, "delay_s": 0.1}, stream=True))
        assert long.has_begun.wait(30)

        def change(models: Any, ports: dict[str, int] = ports, is_exchange: bool = is_exchange) -> None:
            models["a"]["port"] = ports["b"]
            if is_exchange:
                models["b"]["port"] = ports["a"]

        rewrite(house, change)
        assert ["a", "b"] == house.post("/reload", {}).json()["remade"]

        def has_it(ports: dict[str, int] = ports) -> bool:
            rows = [house.status(model_id) for model_id in ("a", "b")]
            return rows[0]["port"] == ports["b"] and all(row["state"] == "ready" for row in rows)

        until("it has the other's port", has_it, 20)
        assert (long.read()[-1] or {}).get("done")
    assert ports["a"] == house.status("b")["port"]
    assert asking.end() > 10


def test_f9_an_explicit_reload_cures_drift(build_house: Build) -> None:
    """A changed override shows as drift, which a change of models.yaml does not cure; `POST /reload` makes that model
    again, and no other."""
    house = build_house({"a": {}, "b": {}})
    assert house.ask("a", "hello").ok
    assert house.ask("b", "hello").ok
    (drifted,), (same,) = house.containers("a"), house.containers("b")
    (house.compose_dir / "compose.override.yaml").write_text('services: {a: {environment: {NEW: "1"}}}')
    rewrite(house, lambda models: models["b"].update(aliases=["b2"]))
    until("the change is in force", lambda: house.ask("b2", "x").ok, 20)
    until("it has drifted", lambda: house.status("a")["drift"], 20)
    assert [drifted] == house.containers("a")
    assert ["a"] == house.post("/reload?dry_run=1", {}).json()["remade"]
    assert ["a"] == house.post("/reload", {}).json()["remade"]
    until("it is made again", lambda: house.containers("a") not in ([], [drifted]), 20)
    until("it has not", lambda: not house.status("a")["drift"], 20)
    assert [same] == house.containers("b")


def test_f9_a_change_while_docker_is_away(build_house: Build, tmp_path: Path) -> None:
    """A change that needs no Docker is in force at once. A removal is shown in `/health` as pending while the model
    keeps serving, and is done once Docker is back, without any request. A missing file is reported as well."""
    gate = Gate(tmp_path)
    gate.open()
    try:
        house = build_house({"stays": {}, "goes": {}}, DOCKER_HOST=gate.url)
        assert house.ask("goes", "hello").ok
        gate.shut()
        rewrite(house, lambda models: models["stays"].update(aliases=["alias"]))
        until("the change is in force", lambda: house.ask("alias", "x").status_code != 404, 10)
        rewrite(house, lambda models: models.pop("goes"))
        until("/health reports it", lambda: not house.get("/health").json()["config"]["ok"], 20)
        assert house.ask("goes", "still").json()["text"] == "still"
        gate.open()
        until("the model is removed", lambda: house.ask("goes", "x").status_code == 404, 40)
        until("/health is ok", lambda: house.get("/health").json()["config"]["ok"], 10)
        assert house.containers("goes") == []
        text = (house.folder / "models.yaml").read_text()
        (house.folder / "models.yaml").unlink()
        (problem,) = until("/health reports it", lambda: house.get("/health").json()["config"]["problems"], 10)
        assert "does not exist" in problem
        house.write_models(text)
        until("/health is ok", lambda: house.get("/health").json()["config"]["ok"], 10)
    finally:
        gate.shut()
