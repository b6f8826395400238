"""A supervisor with its fakes, and the helpers of its tests."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from controller.errors import OrchestrarError
from controller.supervisor import Lease, State, Supervisor
from controller.supervisor.slot import Slot
from tests.fakes import HANG_S, FakeBackend, FakeClock, make_spec

T = TypeVar("T")
STOP_GRACE_S = 30


class House:
    """A supervisor of one or two models, with its fakes and threads to call it from."""

    def __init__(self, pool: ThreadPoolExecutor, **spec_values: Any) -> None:
        self.clock = FakeClock()
        self.backend = FakeBackend()
        self.specs = {"tiny": make_spec("tiny", **spec_values), "other": make_spec("other", **spec_values)}
        self._pool = pool
        self.supervisor = self.boot()

    def boot(self) -> Supervisor:
        """Return a supervisor as after a start of the controller."""
        return Supervisor(self.specs, self.backend, self.backend.probe, clock=self.clock, stop_grace_s=STOP_GRACE_S)

    def later(self, call: Callable[..., T], *args: Any, **kwargs: Any) -> Future[T]:
        return self._pool.submit(call, *args, **kwargs)

    def state(self, model_id: str = "tiny") -> State:
        return self.supervisor.view(model_id).state

    def slot(self, model_id: str = "tiny") -> Slot:
        """Return the model's record, which only tests may look at."""
        return self.supervisor._slots[model_id]

    def state_after_start(self, model_id: str = "tiny") -> State:
        """Return the state once no start is under way."""
        slot = self.slot(model_id)
        with slot.on_change:
            assert slot.on_change.wait_for(lambda: slot.attempt is None, HANG_S)
        return self.state(model_id)


def lease(house: House) -> Lease:
    return house.supervisor.acquire("tiny")


def error_of(future: Future[Any]) -> OrchestrarError:
    error = future.exception(HANG_S)
    assert isinstance(error, OrchestrarError)
    return error


def until(condition: Callable[[], bool]) -> None:
    """Wait until another thread has made the condition true."""
    end = time.monotonic() + HANG_S
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < end, "it never became true"
        pause.wait(0.001)
