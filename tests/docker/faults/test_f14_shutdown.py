"""F14: SIGTERM to the controller cuts no stream within the grace period; models stay up, or stop by a setting."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from tests.conftest import Figure
from tests.docker.conftest import Build
from tests.docker.faults.streams import Reader
from tests.docker.house import House, until
from tests.errorshape import check_error
from tests.promises.mutation import Mutation

STREAMS, SEATS = 12, 8
CROWD = 16
GRACE_S = 15
# Time for a cut stream's error event, for a start to be cancelled, and for gunicorn to notice.
MARGIN_S = 6.0
MUTATION = Mutation(
    "controller/server/signals.py",
    "self._later(self.grace_s, ",
    "self._later(1.0, ",
    "test_f14_no_stream_is_cut_and_models_stay",
)


def begin_streams(house: House, seconds: float) -> list[Reader]:
    """Begin as many streams as the model takes at once, each of this length."""
    script = {"tokens": round(seconds * 10), "delay_s": 0.1}
    with ThreadPoolExecutor(STREAMS) as pool:
        responses = [pool.submit(house.ask, "talk", script, stream=True) for _ in range(SEATS)]
        readers = [Reader(response.result()) for response in responses]
    for reader in readers:
        assert reader.has_begun.wait(30)
    return readers


def test_f14_no_stream_is_cut_and_models_stay(build_house: Build, figure: Figure) -> None:
    """With streams in flight and requests in the queue behind them, everything that can end within the grace period
    completes, new connections are refused at once, and the next controller adopts the running model."""
    house = build_house({"talk": {"max_concurrency": SEATS}}, ORCHESTRAR_STOP_GRACE_S=str(GRACE_S))
    readers = begin_streams(house, seconds=5)
    (container,) = house.containers("talk")
    with ThreadPoolExecutor(STREAMS) as pool:
        waiting = [pool.submit(house.ask, "talk", {"tokens": 20, "delay_s": 0.1}) for _ in range(STREAMS - SEATS)]
        until("the queue has them", lambda: house.status("talk")["waiting"] == STREAMS - SEATS)
        started_at = time.monotonic()
        process = house.begin_to_end()
        until("new connections are refused", house.refuses, 2)
        refused_s = time.monotonic() - started_at
        assert [response.result().status_code for response in waiting] == [200] * len(waiting)
    for reader in readers:
        last = reader.read(GRACE_S)[-1]
        assert last is not None
        assert last["done"] is True
    assert process.wait(GRACE_S + MARGIN_S) == 0
    ended_s = time.monotonic() - started_at
    figure("streams and waiting requests that ended whole", STREAMS)
    figure("refused after", f"{refused_s:.1f} s")
    figure("ended after", f"{ended_s:.1f} s of {GRACE_S} s")
    assert ended_s < GRACE_S
    assert [container] == house.containers("talk")
    house.start()
    until("it is adopted", lambda: house.status("talk")["state"] == "ready", 5)
    assert "hello" == house.ask("talk", "hello").json()["text"]
    assert [container] == house.containers("talk")


def test_f14_a_stream_beyond_the_grace_gets_an_error_event(build_house: Build, figure: Figure) -> None:
    """A stream longer than the grace period gets all of it, and then an error event with the reason."""
    house = build_house({"talk": {}}, ORCHESTRAR_STOP_GRACE_S="3")
    reader = Reader(house.ask("talk", {"tokens": 1000, "delay_s": 0.1}, stream=True))
    assert reader.has_begun.wait(30)
    started_at = time.monotonic()
    process = house.begin_to_end()
    last = reader.read(3 + MARGIN_S)[-1]
    assert last is not None
    assert "shutting_down" == last["error"]["code"]
    assert reader.ended_at - started_at >= 3
    assert process.wait(MARGIN_S) == 0
    figure("cut after", f"{reader.ended_at - started_at:.1f} s of 3 s")


def test_f14_no_queued_request_takes_the_place_of_a_cut_stream(build_house: Build, figure: Figure) -> None:
    """With more streams than a model takes at once, all longer than the grace, those in flight get an error event at
    its end and those in the queue an error; none of these takes a place that a cut has freed, and every client gets
    an answer."""
    models = {"talk": {"max_concurrency": CROWD, "max_queue": CROWD, "max_wait": "60s"}}
    house = build_house(models, ORCHESTRAR_STOP_GRACE_S="3")
    endless = {"tokens": 1000, "delay_s": 0.1}
    with ThreadPoolExecutor(2 * CROWD) as pool:
        responses = [pool.submit(house.ask, "talk", endless, stream=True) for _ in range(CROWD)]
        readers = [Reader(response.result()) for response in responses]
        for reader in readers:
            assert reader.has_begun.wait(30)
        waiting = [pool.submit(house.ask, "talk", endless, stream=True) for _ in range(CROWD)]
        until("the queue has them", lambda: house.status("talk")["waiting"] == CROWD)
        started_at = time.monotonic()
        process = house.begin_to_end()
        for response in waiting:
            check_error(response.result().status_code, response.result().json(), 503, "unavailable")
    for reader in readers:
        last = reader.read(MARGIN_S)[-1]
        assert last is not None
        assert "shutting_down" == last["error"]["code"]
    figure("streams cut and waiting requests refused", 2 * CROWD)
    assert process.wait(MARGIN_S) == 0
    assert time.monotonic() - started_at < 3 + MARGIN_S


@pytest.mark.parametrize("number", ["TERM", "INT"])
def test_f14_models_stop_if_the_setting_says_so(build_house: Build, figure: Figure, number: str) -> None:
    """With ORCHESTRAR_STOP_MODELS_ON_EXIT=1 every model has stopped when the controller has ended, even one that
    ignores SIGTERM, and all at the same time."""
    models = {f"m{count}": {"env": {"FAKE_IGNORE_TERM": "1"}} for count in range(3)}
    house = build_house(models, ORCHESTRAR_STOP_MODELS_ON_EXIT="1")
    for model_id in models:
        assert house.ask(model_id, "hello").ok
    started_at = time.monotonic()
    process = house.begin_to_end(number)
    assert process.wait(30) == 0
    figure(f"three models and the controller ended by SIG{number} after", f"{time.monotonic() - started_at:.1f} s")
    assert [] == [container for model_id in models for container in house.containers(model_id)]


def test_f14_a_worker_that_is_terminated_ends_the_controller(build_house: Build) -> None:
    """SIGTERM to the worker alone ends the controller and the models: no other worker replaces it."""
    house = build_house({"talk": {}}, ORCHESTRAR_STOP_MODELS_ON_EXIT="1")
    assert house.ask("talk", "hello").ok
    os.kill(house.worker_pid(), signal.SIGTERM)
    house.await_death()
    assert [] == house.containers("talk")


def test_f14_without_grace_streams_get_an_error_event(build_house: Build, figure: Figure) -> None:
    """SIGINT ends a stream at once, with an error event."""
    house = build_house({"talk": {}}, ORCHESTRAR_STOP_GRACE_S="20")
    reader = Reader(house.ask("talk", {"tokens": 1000, "delay_s": 0.1}, stream=True))
    assert reader.has_begun.wait(30)
    started_at = time.monotonic()
    process = house.begin_to_end("INT")
    last = reader.read(MARGIN_S)[-1]
    assert last is not None
    assert "shutting_down" == last["error"]["code"]
    assert process.wait(MARGIN_S) == 0
    figure("ended by SIGINT after", f"{time.monotonic() - started_at:.1f} s")


def test_f14_a_dead_worker_stops_no_model(build_house: Build) -> None:
    """Only the controller's own end stops models: a worker that gunicorn replaces leaves them running."""
    house = build_house({"talk": {}}, ORCHESTRAR_STOP_MODELS_ON_EXIT="1")
    assert house.ask("talk", "hello").ok
    (worker,) = map(int, Path(f"/proc/{house.pid}/task/{house.pid}/children").read_text().split())
    os.kill(worker, 6)
    until("it is gone", lambda: not Path(f"/proc/{worker}").exists())

    def answers() -> bool:
        try:
            return bool(house.status("talk")["state"] == "ready")
        except requests.ConnectionError:
            return False

    until("another worker has adopted the model", answers)


def test_f14_a_pull_delays_no_shutdown(build_house: Build, figure: Figure) -> None:
    """A preparation under way ends at once, not at the end of the grace period; its clients get an error, and nothing
    of it continues."""
    house = build_house({"slow": {"gguf": True, "env": {"FAKE_PREPARE_S": "60"}}}, ORCHESTRAR_STOP_GRACE_S="20")
    with ThreadPoolExecutor(2) as pool:
        pull = pool.submit(house.post, "/pull", {"model_id": "slow"})
        ask = pool.submit(house.ask, "slow", "hello")
        until("the preparation runs", lambda: house.preparing("slow"))
        started_at = time.monotonic()
        process = house.begin_to_end()
        for response in (pull.result(), ask.result()):
            check_error(response.status_code, response.json(), 503, "unavailable")
    assert process.wait(MARGIN_S) == 0
    figure("with a pull under way ended after", f"{time.monotonic() - started_at:.1f} s of 20 s")
    assert [] == house.preparing("slow")
