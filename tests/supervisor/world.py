"""A Docker and a clock in which every thread stops where it can be overtaken, so that a test decides who goes on."""

from __future__ import annotations

import threading
from collections.abc import Collection
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

from controller.docker_service import Container
from controller.errors import DockerError, StartFailed
from controller.placement import Amount
from controller.readiness import Readiness
from controller.supervisor.model import Slot
from tests.fakes import HANG_S, FakeBackend, FakeClock, make_container
from tests.supervisor.house import until

# Whoever is parked outlasts the test that waits for others, so that the test is what fails.
PARKED_S = 6 * HANG_S
OURS = ("start ", "prepare ", "evict ", "remake ")


class ParkingClock(FakeClock):
    """Here `sleep` takes until somebody lets the time pass."""

    def __init__(self) -> None:
        super().__init__()
        self.sleepers = threading.Condition()

    def sleep(self, seconds: float, /) -> None:
        due = self.monotonic() + seconds
        with self.sleepers:
            assert self.sleepers.wait_for(lambda: self.monotonic() >= due, PARKED_S), "it was never woken"

    def advance(self, seconds: float) -> None:
        super().advance(seconds)
        with self.sleepers:
            self.sleepers.notify_all()

    def wait(self, condition: threading.Condition, timeout_s: float | None, /) -> None:
        with self._lock:
            self._waiting.append(condition)
        try:
            assert condition.wait(PARKED_S), "a waiter was never woken"
        finally:
            with self._lock:
                self._waiting.remove(condition)


@dataclass(eq=False)
class Call:
    """A docker command under way; `succeeds` is None until the test says how it ends."""

    name: str
    model_id: str
    container_id: str = ""
    succeeds: bool | None = None


class ParkingDocker(FakeBackend):
    """Its starts and stops end when `answer` says so. `wrong` collects what must not be asked of it."""

    def __init__(self, models: list[str], budget: int) -> None:
        super().__init__()
        self.models = models
        self.budget = Amount(memory_bytes=budget)
        self.under_way: list[Call] = []
        self.answered = threading.Condition()
        self.by_hand: set[str] = set()
        self.slow: set[str] = set()
        self.wrong: list[str] = []

    def ports(self) -> dict[str, int]:
        return {model_id: 9001 + number for number, model_id in enumerate(self.models)}

    def probe(self, port: int, path: str) -> Readiness:
        return Readiness(ready=self.models[port - 9001] not in self.slow, phase="loading")

    def up(self, model_id: str) -> Container:
        if not self._ended(Call(f"up {model_id}", model_id)):
            raise StartFailed(f"{model_id} does not start")
        running = self.running(model_id)
        return running if running is not None else self.create(model_id)

    def stop(self, container_id: str, *, grace_s: int) -> None:
        model_id = self.containers[container_id].model_id
        if not self._ended(Call(f"stop {container_id}", model_id, container_id)):
            raise DockerError(f"{container_id} does not stop")
        self.end(container_id, exit_code=0)

    def create(self, model_id: str, *, by_hand: bool = False) -> Container:
        """A new container in the place of the model's old one; by us only within the budget."""
        running = [c for c in self.containers.values() if c.running]
        if by_hand:
            self.by_hand.add(model_id)
        elif len(running) >= self.budget.memory_bytes and not self.by_hand & {c.model_id for c in running}:
            self.wrong.append(f"{model_id} was started beside {[c.id for c in running]}")
        else:
            self.by_hand.discard(model_id)
        container = make_container(
            model_id, id=f"{model_id}-{next(self._numbers)}", port=self.ports()[model_id], memory_limit_bytes=1
        )
        others = {i: c for i, c in self.containers.items() if c.model_id != model_id}
        self.containers = {**others, container.id: container}
        return container

    def running(self, model_id: str) -> Container | None:
        return next((c for c in self.containers.values() if c.model_id == model_id and c.running), None)

    def paused(self, container_id: str, *, is_paused: bool) -> None:
        container = self.containers[container_id]
        self.containers[container_id] = replace(container, status="paused" if is_paused else "running")

    def answer(self, call: Call, *, succeeds: bool) -> None:
        with self.answered:
            call.succeeds = succeeds
            self.under_way.remove(call)
            self.answered.notify_all()

    def _ended(self, call: Call) -> bool:
        with self.answered:
            self.under_way.append(call)
            assert self.answered.wait_for(lambda: call.succeeds is not None, PARKED_S), f"{call} was never answered"
        return bool(call.succeeds)


def settle(slots: Collection[Slot], clock: ParkingClock, docker: ParkingDocker, futures: list[Future[Any]]) -> None:
    """Return when every thread has ended or waits for something that only the test can bring about.

    A thread that was notified is no longer among its condition's waiters, though it has not run yet.
    """
    changes = [slot.changed for slot in slots]

    def alive() -> int:
        threads = sum(thread.name.startswith(OURS) for thread in threading.enumerate())
        return threads + sum(not future.done() for future in futures)

    def parked() -> int:
        waiting = [*changes, clock.sleepers, docker.answered]
        return sum(len(vars(condition)["_waiters"]) for condition in waiting)

    def is_quiet() -> bool:
        before = alive()
        return before == parked() and before == alive()

    until(is_quiet)
