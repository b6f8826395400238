"""Requests to models that never answer: the end of a shutdown's grace, and a second try."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from controller.app import create_app
from controller.errors import ModelDied, Overloaded, ShutDown, Unavailable
from controller.proxy.forwarding import RESERVED_PLACES, ModelAnswer, RunnerRequest
from controller.proxy.runner_client import RunnerClient, RunnerResponse
from controller.proxy.runner_response import InFlightRequest
from controller.registry import Registry
from controller.settings import Settings
from controller.supervisor import CancelToken, Lease
from controller.supervisor.backend import Readiness
from tests.fake_controller import make_controller
from tests.fakes import HANG_S, FakeBackend, make_spec


class Connection(socket.socket):
    """A connection to a model that never answers."""

    def __init__(self, on_shutdown: Callable[[], None]) -> None:
        near, self._far = socket.socketpair()
        super().__init__(fileno=near.detach())
        self.settimeout(HANG_S)
        self._on_shutdown = on_shutdown

    def shutdown(self, how: int, /) -> None:
        super().shutdown(how)
        self._on_shutdown()

    def close(self) -> None:
        self._far.close()
        super().close()


class SilentModels(RunnerClient):
    """Models that never answer: a request to one stays there until it is aborted."""

    def __init__(self) -> None:
        super().__init__()
        self.posts = threading.Semaphore(0)
        self.post_count = 0
        self.on_abort: Callable[[], None] = lambda: None
        self.dies = False

    def probe(self, port: int, path: str, *, timeout_s: float = 1.0) -> Readiness:
        return Readiness(ready=True)

    def post(
        self,
        port: int,
        path: str,
        body: bytes,
        headers: dict[str, str],
        in_flight: InFlightRequest,
    ) -> RunnerResponse:
        self.post_count += 1
        if self.dies:
            raise ModelDied("it died first")
        with Connection(lambda: self.on_abort()) as connection:
            in_flight.attach(connection)
            self.posts.release()
            assert b"" == connection.recv(1)
            raise ModelDied("it was aborted")


class House:
    """The composed parts, with one model that takes one request at a time."""

    def __init__(self, folder: Path, pool: ThreadPoolExecutor) -> None:
        self.line = SilentModels()
        self.backend = FakeBackend()
        settings = Settings(data_dir=folder, compose_dir=folder, project="test")
        registry = Registry(models={"tiny": make_spec("tiny", max_concurrency=1)})
        self.controller = make_controller(settings, registry=registry, backend=self.backend, proxy=self.line)
        self.client = create_app(self.controller).test_client()
        self._pool = pool

    def ask(self) -> Future[ModelAnswer]:
        def call() -> ModelAnswer:
            request = RunnerRequest(model_id="tiny", message=lambda _: ("/inference", b"{}"), request_id="r")
            return self.controller.proxy.open(request, CancelToken())

        return self._pool.submit(call)

    def waiting(self) -> int:
        return self.controller.supervisor.view("tiny").waiting


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with ThreadPoolExecutor(4) as pool:
        house = House(tmp_path, pool)
        yield house
        house.controller.close()


def until(condition: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(round(HANG_S / 0.005)):
        if condition():
            return
        pause.wait(0.005)
    raise AssertionError("it never became true")


def test_the_place_of_an_aborted_request_goes_to_no_other(house: House) -> None:
    """At the end of the grace a request in flight is aborted, and the one behind it refused, whatever comes first: it
    is not sent to the model, where it would be aborted in silence."""
    first = house.ask()
    assert house.line.posts.acquire(timeout=HANG_S)
    second = house.ask()
    until(lambda: house.waiting() == 1)
    # The longest that an abort can take: until all that it frees has been taken.
    house.line.on_abort = lambda: until(lambda: first.done() and (second.done() or house.line.post_count > 1))
    house.controller.abort_requests()
    assert isinstance(first.exception(HANG_S), ShutDown)
    assert isinstance(second.exception(HANG_S), Unavailable)
    assert 1 == house.line.post_count


def test_no_request_is_sent_after_the_abort(house: House) -> None:
    """A request that has its lease, and would be sent a moment later, is aborted too and gives the lease back."""
    house.controller.proxy.abort_all()
    assert isinstance(house.ask().exception(HANG_S), ShutDown)
    assert 0 == house.line.post_count
    assert 0 == house.controller.supervisor.view("tiny").in_flight


def test_a_second_try_has_the_time_that_is_left(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both tries of a request together wait for the model no longer than the time that it had at first."""
    house.line.dies = True
    supervisor = house.controller.supervisor
    acquire, waits = supervisor.acquire, []

    def spy(model_id: str, *, max_wait_s: float | None = None, token: CancelToken | None = None) -> Lease:
        waits.append(max_wait_s)
        lease = acquire(model_id, token=token)
        lease.left_s = 7.0
        return lease

    monkeypatch.setattr(supervisor, "acquire", spy)
    assert isinstance(house.ask().exception(HANG_S), ModelDied)
    first, second = waits
    assert first is None
    assert second is not None
    assert 0 < second <= 7.0


def test_an_operator_has_a_place_when_all_are_taken(house: House) -> None:
    """While requests hold all places, there are a few more for requests that may end them, and no more than that."""
    proxy = house.controller.proxy
    with ExitStack() as places:
        for _ in range(Settings().max_in_flight):
            places.enter_context(proxy.place())
        with pytest.raises(Overloaded), proxy.place():
            pass
        assert 200 == house.client.post("/stop", data=b'{"model_id": "tiny"}').status_code
        for _ in range(RESERVED_PLACES):
            places.enter_context(proxy.reserved_place())
        with pytest.raises(Overloaded), proxy.reserved_place():
            pass
    with proxy.place(), proxy.reserved_place():
        pass
