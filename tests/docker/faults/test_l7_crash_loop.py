"""L7: a model that ends at its start is tried less and less often."""

from __future__ import annotations

import json
import time
from collections import Counter

import pytest
import requests

from tests.conftest import Figure
from tests.docker.conftest import Build
from tests.docker.house import House, docker, until
from tests.errorshape import check_error
from tests.promises.mutation import Mutation

WATCHED_S = 9.0
LOOKED_AT_S = 1.0
MUTATION = Mutation(
    "controller/supervisor/failures/backoff.py",
    "self.retry_at = now + delay_s(self.starts, jitter)",
    "self.retry_at = now",
    "test_l7_a_crash_loop_backs_off",
)


def test_l7_a_crash_loop_backs_off(build_house: Build, figure: Figure) -> None:
    """Under requests without a pause for 9 s, a model that ends at once is started at most four times (after about 1, 2
    and 4 s); requests in between get `backing_off` with `Retry-After` and the card. `POST /run` tries at once."""
    house = build_house({"crashing": {"env": {"FAKE_EXIT": "3"}}})
    codes: Counter[str] = Counter()
    with house.counted_events("start") as starts:
        until_s = time.monotonic() + WATCHED_S
        while time.monotonic() < until_s:
            refusal = house.ask("crashing", "hello")
            code = refusal.json()["error"]["code"]
            codes[code] += 1
            error = check_error(refusal.status_code, refusal.json(), 503, code)
            assert 1 <= int(refusal.headers["Retry-After"]) <= 10
            assert 3 == error["details"]["exit_code"]
            assert ["the fake exits as FAKE_EXIT says"] == error["details"]["log"]
            assert "retry_at" in error["details"]
            time.sleep(0.02)
    figure("starts in 9 s", len(starts))
    figure("refused in between", codes["backing_off"])
    assert 2 <= len(starts) <= 4
    assert {"start_failed", "backing_off"} == set(codes)
    # The rest of a wait may end before the next look at it, so wait for one with enough left.
    until("the model backs off for a while longer", lambda: rest_of_wait_s(house) > LOOKED_AT_S, 20)
    (row,) = house.get("/models").json()["models"]
    assert ("failed", True) == (row["state"], row["retry_in_s"] is not None)
    with house.counted_events("start") as at_once:
        house.post("/run", {"model_id": "crashing"})
    assert 1 == len(at_once)


def rest_of_wait_s(house: House) -> float:
    """Return how long the model still backs off, as a refused request says; 0 if the request tried it instead."""
    error = house.ask("crashing", "hello").json()["error"]
    return float(error["details"].get("retry_in_s", 0.0))


def test_l7_what_others_do_does_not_count(build_house: Build) -> None:
    """After any number of stops by hand a model starts without a wait; and clients that leave during a start do not end
    it, even if all of them leave."""
    house = build_house({"echo": {}, "slow": {"env": {"FAKE_START_S": "2"}}})
    with house.counted_events("start") as starts:
        for _ in range(3):
            with pytest.raises(requests.Timeout):
                house.post("/inference", {"model_id": "slow", "prompt": "hello"}, timeout=0.3)
        until("the model is ready", lambda: house.status("slow")["state"] == "ready", 20)
    assert (1, 0) == (len(starts), house.status("slow")["failures"])
    for command in ("stop", "kill", "stop", "kill"):
        assert house.ask("echo", "hello").ok
        (container,) = house.containers("echo")
        docker(command, container)
        until("the stop is noticed", lambda: house.status("echo")["state"] != "ready", 20)
    assert "still" == house.ask("echo", "still").json()["text"]
    assert 0 == house.status("echo")["failures"]


def test_l7_a_changed_configuration_is_tried_at_once(build_house: Build) -> None:
    """However long a model should back off: it is tried at once if models.yaml no longer says what failed."""
    house = build_house({"a": {"env": {"FAKE_EXIT": "3"}}})
    for _ in range(4):
        house.post("/run", {"model_id": "a"})
        assert "start_failed" == house.get("/models").json()["models"][0]["error"]["code"]
    while house.ask("a", "hello").json()["error"]["code"] != "backing_off":
        pass
    models = json.loads((house.folder / "models.yaml").read_text())
    del models["models"]["a"]["env"]
    house.write_models(json.dumps(models))
    assert ["a"] == house.post("/reload", {}).json()["remade"]
    assert "hello" == house.ask("a", "hello").json()["text"]
