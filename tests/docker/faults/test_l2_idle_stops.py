"""L2: no request is lost to an idle stop, on real containers."""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor

from tests.conftest import Figure
from tests.docker.conftest import Build
from tests.promises.mutation import Mutation

MODELS, ROUNDS = 10, 20
# A stop takes some tenths of a second: the request comes before, in or after it.
LONGEST_REST_S = 0.6
SEED = 77
MUTATION = Mutation(
    "controller/supervisor/refusals.py",
    "if slot.stop_requested:",
    "if slot.stop_requested or slot.state is State.DRAINING:",
    "test_l2_requests_meet_idle_stops",
)


def test_l2_requests_meet_idle_stops(build_house: Build, figure: Figure) -> None:
    """Of 200 requests, each of which meets the stop of its model for want of use (`keep_alive` 0) somewhere in its
    course, all are answered."""
    house = build_house({f"echo{number}": {} for number in range(MODELS)})

    def client(number: int) -> list[str]:
        rng, lost = random.Random(SEED + number), []
        with ThreadPoolExecutor(1) as unloading:
            for count in range(ROUNDS):
                tokens, word = rng.randint(1, 3), f"{number}.{count} "
                unloaded = unloading.submit(house.post, "/api/generate", {"model": f"echo{number}", "keep_alive": 0})
                time.sleep(rng.uniform(0, LONGEST_REST_S))
                response = house.ask(f"echo{number}", {"tokens": tokens, "echo": word})
                if response.status_code != 200 or word * tokens != response.json()["text"]:
                    lost.append(response.text)
                unloaded.result().raise_for_status()
        return lost

    with house.counted_events("die") as died, ThreadPoolExecutor(MODELS) as pool:
        lost = [answer for found in pool.map(client, range(MODELS)) for answer in found]
    assert [] == lost
    figure("requests to Docker", MODELS * ROUNDS)
    figure("idle stops among them", len(died))
    assert len(died) >= MODELS * ROUNDS / 2
