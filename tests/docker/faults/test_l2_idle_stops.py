"""L2: no request is lost to an idle stop, on real containers."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from tests.conftest import Figure
from tests.docker.conftest import Build
from tests.promises.mutation import Mutation

CLIENTS, ROUNDS = 10, 20
# How long the model is left alone between two rounds: its stop begins, is under way, or is over.
LONGEST_REST_S = 1.5
SEED = 77
MUTATION = Mutation(
    "controller/supervisor/turns.py",
    "if slot.stop_requested:",
    "if slot.stop_requested or slot.state is State.DRAINING:",
    "test_l2_requests_meet_idle_stops",
)


def test_l2_requests_meet_idle_stops(build_house: Build, figure: Figure) -> None:
    """Of 200 requests, each of which lets the model stop right after it (`keep_alive` 0), all are answered."""
    house = build_house({"echo": {}})
    begun = threading.Barrier(CLIENTS)

    def client(seed: int) -> list[tuple[int, str]]:
        rng = random.Random(seed)
        answers = []
        for number in range(ROUNDS):
            begun.wait(60)
            time.sleep(LONGEST_REST_S * number / ROUNDS + rng.uniform(0, 0.2))
            tokens, word = rng.randint(1, 3), f"{seed}.{number} "
            response = house.ask("echo", {"tokens": tokens, "echo": word}, keep_alive=0)
            answers.append((response.status_code, response.text))
            assert response.status_code != 200 or word * tokens == response.json()["text"]
        return answers

    with house.counted_events("die") as died, ThreadPoolExecutor(CLIENTS) as pool:
        answers = [answer for found in pool.map(client, range(SEED, SEED + CLIENTS)) for answer in found]
    assert {200} == set(Counter(status for status, _ in answers)), [a for a in answers if a[0] != 200][:3]
    figure("requests to Docker", len(answers))
    figure("idle stops among them", len(died))
    assert len(died) >= ROUNDS / 4
