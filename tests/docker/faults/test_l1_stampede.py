"""L1: a stampede causes one start."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import requests

from tests.conftest import Figure
from tests.docker.conftest import Build
from tests.docker.house import docker_with_a_log
from tests.promises.mutation import Mutation

CLIENTS = 200
MUTATION = Mutation(
    "controller/supervisor/states.py",
    "(Event.BEGIN, EVERY - RESTING, NO_OP),",
    "(Event.BEGIN, EVERY - RESTING, NO_OP), (Event.BEGIN, UNDER_WAY, UNDER_WAY),",
    "test_l1_a_stampede_causes_one_start",
)


def test_l1_a_stampede_causes_one_start(build_house: Build, tmp_path: Path, figure: Figure) -> None:
    """Of 200 simultaneous first requests each gets its own answer, or 503 with `Retry-After`; one container is created
    and started, by one `docker compose up`."""
    house = build_house({"slow": {"env": {"FAKE_START_S": "1.5"}}}, PATH=docker_with_a_log(tmp_path))
    all_here = threading.Barrier(CLIENTS)

    def ask(number: int) -> requests.Response:
        all_here.wait(30)
        return house.ask("slow", f"request {number}")

    with (
        house.counted_events("create") as created,
        house.counted_events("start") as started,
        ThreadPoolExecutor(CLIENTS) as pool,
    ):
        answers = list(pool.map(ask, range(CLIENTS)))
    ups = sum(" up " in line for line in (tmp_path / "calls").read_text().splitlines())
    for number, answer in enumerate(answers):
        if answer.status_code == 200:
            assert f"request {number}" == answer.json()["text"]
        else:
            assert 503 == answer.status_code, answer.text
            assert int(answer.headers["Retry-After"]) > 0
    statuses = Counter(answer.status_code for answer in answers)
    figure("creations", len(created))
    figure("starts", len(started))
    figure("answers", statuses[200])
    figure("503 with Retry-After", statuses[503])
    assert (1, 1, 1) == (len(created), len(started), ups)
    assert statuses[200] >= 8
