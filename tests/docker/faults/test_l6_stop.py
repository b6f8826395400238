"""L6: a stop ends, whatever the model does."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

from tests.conftest import Figure
from tests.docker.conftest import Build
from tests.docker.faults.streams import Reader
from tests.docker.house import docker, until
from tests.errorshape import check_error
from tests.promises.mutation import Mutation

GRACE_S = 5.0
MUTATION = Mutation(
    "controller/docker/service.py",
    '"stop", "--time", str(grace_s), container_id',
    '"stop", container_id',
    "test_l6_a_stop_is_bounded",
)


def test_l6_a_stop_is_bounded(build_house: Build, figure: Figure) -> None:
    """A model that ignores SIGTERM and has an endless stream is gone within the grace period and 5 s. Meanwhile new
    work is refused; the stream ends with an error event; a later request starts the model again."""
    house = build_house({"stubborn": {"env": {"FAKE_IGNORE_TERM": "1"}}}, ORCHESTRAR_STOP_GRACE_S=f"{GRACE_S:g}")
    stream = Reader(house.ask("stubborn", {"tokens": 1000, "delay_s": 0.1}, stream=True))
    assert stream.has_begun.wait(30)
    (container,) = house.containers("stubborn")
    started_at = time.monotonic()
    with ThreadPoolExecutor(1) as pool:
        stop = pool.submit(house.post, "/stop", {"model_id": "stubborn"})
        until("the model drains", lambda: house.status("stubborn")["state"] == "draining", 5)
        refusal = house.ask("stubborn", "hello")
        check_error(refusal.status_code, refusal.json(), 503, "model_stopping")
        response = stop.result(60)
    took_s = time.monotonic() - started_at
    assert "stopped" == response.json()["state"]
    assert "" == docker("ps", "-q", "--filter", f"id={container}")
    last = stream.read(5)[-1]
    assert last is not None
    assert "error" in last
    figure("grace", f"{GRACE_S:g} s")
    figure("stopped after", f"{took_s:.1f} s")
    assert GRACE_S - 0.5 < took_s < GRACE_S + 5
    assert "again" == house.ask("stubborn", "again").json()["text"]
