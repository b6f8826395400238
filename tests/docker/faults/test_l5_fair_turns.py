"""L5: steady traffic on one model does not keep another one out."""

from __future__ import annotations

import threading
import time

import requests

from tests.conftest import Figure
from tests.docker.conftest import Build
from tests.docker.faults.streams import Reader
from tests.docker.house import House
from tests.errorshape import check_error
from tests.promises.mutation import Mutation

RESIDENCY_S = 3.0
IN_FLIGHT_S = 0.5
CLIENTS = 3
# A client's requests follow one another and take IN_FLIGHT_S or longer: so many of them fit into `min_residency`, with
# one more at either end of it.
MOST_ANSWERS = CLIENTS * (int(RESIDENCY_S / IN_FLIGHT_S) + 2)
RETURN_DEADLINE_S = 60.0
MODEL = {"resources": {"cpus": 1, "memory": "100m"}, "min_residency": f"{RESIDENCY_S:g}s"}
MUTATION = Mutation(
    "controller/supervisor/memory/placement.py",
    "patience_s = max(self.min_residency_s - waited_s, 0.0) if self.in_use else 0.0",
    "patience_s = 9e9 if self.in_use else 0.0",
    "test_l5_steady_traffic_starves_no_model",
)


class Traffic:
    """Clients that ask without a pause until `end`."""

    def __init__(self, house: House, model_id: str) -> None:
        self.answers: list[requests.Response] = []
        self._house, self._model_id = house, model_id
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask, daemon=True) for _ in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def _ask(self) -> None:
        while not self._over.is_set():
            self.answers.append(self._house.ask(self._model_id, {"tokens": 5, "delay_s": IN_FLIGHT_S / 5}))

    def end(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(60)


def test_l5_steady_traffic_starves_no_model(build_house: Build, figure: Figure) -> None:
    """Under steady traffic on one model another one, for which there is no room beside it, gets a turn: while it waits,
    the first one answers no more requests than fit into its `min_residency`, and those in flight. The first one's
    requests are all answered as well, some of them after its own return."""
    house = build_house({"busy": MODEL, "other": MODEL}, top={"memory_budget": "140m"})
    assert house.ask("busy", "hello").ok
    traffic = Traffic(house, "busy")
    try:
        waits_s, answers_meanwhile = [], []
        for _ in range(2):
            started_at, answer_count = time.monotonic(), len(traffic.answers)
            assert "mine" == house.ask("other", "mine").json()["text"]
            waits_s.append(time.monotonic() - started_at)
            answers_meanwhile.append(len(traffic.answers) - answer_count)
            answer_count = len(traffic.answers)
            deadline = time.monotonic() + RETURN_DEADLINE_S
            while len(traffic.answers) < answer_count + 6 and time.monotonic() < deadline:
                time.sleep(0.1)
            assert len(traffic.answers) >= answer_count + 6, "the busy model did not come back"
    finally:
        traffic.end()
    assert {200} == {answer.status_code for answer in traffic.answers}
    figure("min_residency", f"{RESIDENCY_S:g} s")
    figure("waited at most", f"{max(waits_s):.1f} s")
    figure("answers of the busy one", len(traffic.answers))
    assert max(answers_meanwhile) <= MOST_ANSWERS


def test_l5_waiting_ends_at_max_wait(build_house: Build, figure: Figure) -> None:
    """A long stream keeps its model: the request for another one gets 504 at `max_wait`, and the model that should have
    stopped takes requests again, with its stream complete."""
    house = build_house(
        {"busy": {**MODEL, "min_residency": "1s"}, "other": {**MODEL, "max_wait": "3s"}}, top={"memory_budget": "140m"}
    )
    stream = Reader(house.ask("busy", {"tokens": 100, "delay_s": 0.1}, stream=True))
    assert stream.has_begun.wait(30)
    started_at = time.monotonic()
    refusal = house.ask("other", "hello")
    took_s = time.monotonic() - started_at
    check_error(refusal.status_code, refusal.json(), 504, "deadline_exceeded")
    assert "busy" in refusal.json()["error"]["message"]
    assert "again" == house.ask("busy", "again").json()["text"]
    assert {"done"} & set(stream.read()[-1] or {}), "the stream was cut"
    figure("504 after", f"{took_s:.1f} s of 3 s")
    assert 2.9 < took_s < 3 + 10
