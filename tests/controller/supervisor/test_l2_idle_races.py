"""L2: no request is lost to an idle stop; on a fake Docker, thousands of times."""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from controller.errors import ModelStopping
from controller.supervisor.policies import idle_stop
from tests.conftest import Figure
from tests.controller.supervisor.house import House
from tests.fakes import HANG_S
from tests.promises.mutation import Mutation

RACES = 10_000
SEED = 20_240
STOPS_BY_HAND = 0.2
MUTATION = Mutation(
    "controller/supervisor/slot.py",
    "        if not self.is_idle(now):\n            return False\n        self.claim()\n",
    "        if not self.is_idle(now):\n            return False\n",
    "test_l2_no_request_is_lost_to_an_idle_stop",
)


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    """Have threads take the interpreter from each other every 20 µs, in the middle of anything."""
    usual_s = sys.getswitchinterval()
    sys.setswitchinterval(2e-5)
    yield
    sys.setswitchinterval(usual_s)


@pytest.fixture
def slow_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let other threads pass whenever one logs: between a decision and its action there is time for a request."""
    pause = threading.Event()

    def linger(*_: object) -> None:
        pause.wait(0.0002)

    monkeypatch.setattr(idle_stop.log, "info", linger)


@pytest.mark.long
@pytest.mark.usefixtures("hasty_threads", "slow_log")
def test_l2_no_request_is_lost_to_an_idle_stop(pool: ThreadPoolExecutor, figure: Figure) -> None:
    """One to three requests at the moment when the model falls due, sometimes with a stop by hand: each gets a lease.

    Its container runs until the release. Only beside a stop by hand may a request be refused, with `model_stopping`.
    """
    rng = random.Random(SEED)
    house = House(pool)
    pause = threading.Event()
    slow_stop_s = [0.0]
    stop = house.backend.stop

    def slow_stop(container_id: str, *, grace_s: int) -> None:
        pause.wait(slow_stop_s[0])
        stop(container_id, grace_s=grace_s)
        pause.wait(slow_stop_s[0])

    def runs(container_id: str) -> bool:
        container = house.backend.inspect(container_id)
        return container is not None and container.running

    def request(delay_s: float, hold_s: float) -> None:
        if delay_s:
            pause.wait(delay_s)
        open_lease = house.supervisor.acquire("tiny")
        assert runs(open_lease.container_id)
        if hold_s:
            pause.wait(hold_s)
        # A stop by hand waits for this, as everything else does that ends a container.
        assert runs(open_lease.container_id)
        open_lease.release()

    house.backend.stop = slow_stop  # type: ignore[method-assign]
    races_with_stop = refusals = 0
    for number in range(RACES):
        request(0, 0)
        house.clock.advance(900)
        stops_before = sum(call.startswith("stop") for call in house.backend.calls)
        slow_stop_s[0] = rng.choice([0, 0, 0.0002])
        by_hand = rng.random() < STOPS_BY_HAND
        delays = [(rng.choice([0, 0, 0.0001, 0.0003]), rng.choice([0, 0, 0.0002])) for _ in range(rng.randint(1, 3))]
        calls = [lambda: house.supervisor.stop("tiny")] if by_hand else []
        calls += [house.supervisor.reap, *((lambda d=d, h=h: request(d, h)) for d, h in delays)]
        rng.shuffle(calls)
        for future in [house.later(call) for call in calls]:
            try:
                future.result(HANG_S)
            except ModelStopping:
                assert by_hand, f"a request was refused in race {number}, without a stop by hand"
                refusals += 1
        races_with_stop += sum(call.startswith("stop") for call in house.backend.calls) > stops_before
        house.backend.calls.clear()
    house.supervisor.close()
    figure("races", RACES)
    figure("of which with a stop in them", races_with_stop)
    figure("refused beside a stop by hand", refusals)
    figure("lost", 0)
    figure("hangs", 0)
    assert races_with_stop > RACES / 10
