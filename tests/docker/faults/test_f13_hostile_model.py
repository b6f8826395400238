"""F13: a hostile model gets a 502, in bounded memory."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.conftest import Figure
from tests.docker.conftest import Build
from tests.docker.house import House
from tests.errorshape import check_error
from tests.promises.mutation import Mutation

# A whole answer may have 64 MiB, for vectors; nothing may cost more than that, plus something for its pieces.
PEAK_GROWTH_MB = 128
# What large answers may take together, plus something for each.
AT_ONCE, AT_ONCE_GROWTH_MB = 16, 384
# A slow head has 10 s, and so has a line between chunks.
WITHIN_S = 20.0
WAYS = {
    "redirect": "upstream_invalid",
    "gzip bomb": "upstream_invalid",
    "endless header": "upstream_invalid",
    "line without end": "upstream_invalid",
    "chunk line without end": "upstream_invalid",
    "body without end": "upstream_invalid",
    "drip": "upstream_invalid",
    "chunk line in drips": "upstream_invalid",
}
WORST = {"s": 0.0, "mb": 0.0}
MUTATION = Mutation(
    "controller/proxy/runner_client.py",
    "ANSWER_HEAD_S = 10.0",
    "ANSWER_HEAD_S = 1000.0",
    "test_f13_the_answer_is_a_502",
)


@pytest.fixture(scope="module")
def house(build_house: Build) -> House:
    house = build_house({"bad": {"max_concurrency": AT_ONCE}})
    assert house.ask("bad", "hello").ok
    return house


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("way", WAYS)
def test_f13_the_answer_is_a_502(house: House, figure: Figure, way: str, stream: bool) -> None:
    """Whatever the model does instead of answering, the client gets a 502 in time, the controller's memory stays within
    its bound, and the next request to the same model is answered."""
    before_mb = house.memory_mb(peak=True)
    started_at = time.monotonic()
    response = house.ask("bad", {"hostile": way}, stream=stream)
    check_error(response.status_code, response.json(), 502, WAYS[way])
    took_s = time.monotonic() - started_at
    grown_mb = house.memory_mb(peak=True) - before_mb
    WORST.update(s=max(WORST["s"], took_s), mb=max(WORST["mb"], grown_mb))
    figure("slowest 502 after", f"{WORST['s']:.1f} s")
    figure("memory grew at most by", f"{WORST['mb']:.0f} MB")
    assert took_s < WITHIN_S
    assert grown_mb < PEAK_GROWTH_MB
    assert "again" == house.ask("bad", "again").json()["text"]


def test_f13_many_at_once_keep_within_a_bound(house: House, figure: Figure) -> None:
    """With sixteen endless bodies at once each client gets a 502, or a 503 while the others use all the memory for
    large answers, and all of them together take no more than that."""
    before_mb = house.memory_mb()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        requests = [pool.submit(house.ask, "bad", {"hostile": "body without end"}) for _ in range(AT_ONCE)]
        statuses = [response.result().status_code for response in requests]
    grown_mb = house.memory_mb(peak=True) - before_mb
    figure(f"{AT_ONCE} at once: memory grew at most by", f"{grown_mb:.0f} MB")
    assert {502, 503} >= set(statuses)
    assert grown_mb < AT_ONCE_GROWTH_MB
    assert "again" == house.ask("bad", "again").json()["text"]


def test_f13_the_model_keeps_running(house: House) -> None:
    """After all of that nothing is in flight and the model still runs: a bad answer is no reason to end it."""
    assert "ready" == house.status("bad")["state"]
    assert 0 == house.status("bad")["in_flight"]
