"""A Docker whose commands end when the test says so, and which takes note of what must not be asked of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from controller.docker.container import Container, Usage
from controller.errors import (
    Cancelled,
    DockerError,
    DockerUnavailable,
    FilesUnwritable,
    ModelBusy,
    PreparationFailed,
    StartFailed,
)
from controller.registry import DeployedModels, Registry
from controller.supervisor.backend import Amount, OnProgress, PreparationProgress, Readiness
from tests.controller.supervisor.world import PARKED_S, ParkingClock
from tests.fakes import FakeBackend, make_container

LOOK_S = 0.5


@dataclass(eq=False)
class Call:
    """A command under way; `succeeds` is None until the test says how it ends."""

    what: str
    model_id: str
    container_id: str = ""
    succeeds: bool | None = None

    @property
    def is_start(self) -> bool:
        return self.what in ("up", "resume")

    def __str__(self) -> str:
        return f"{self.what} {self.container_id or self.model_id}"


class ParkingDocker(FakeBackend):
    """Models that need so much of the `budget` each. `wrong` collects what must not be asked of it.

    `to_fail` says how many of the next looks at Docker, and writes of its file, fail. `ours` are the containers that we
    started, `counted` those that others did and the supervisor takes into account.
    """

    def __init__(self, registry: DeployedModels, needs: Mapping[str, int], budget: int, clock: ParkingClock) -> None:
        super().__init__()
        self.registry = registry
        self.models = list(needs)
        self.need = {model_id: Amount(memory_bytes=need) for model_id, need in needs.items()}
        self.budget = Amount(memory_bytes=budget)
        self.prepared = set(needs)
        self.clock = clock
        self.under_way: list[Call] = []
        self.answered = threading.Condition()
        self.ours: set[str] = set()
        self.counted: set[str] = set()
        self.resumed: set[str] = set()
        self.slow: set[str] = set()
        self.to_fail = {"docker": 0, "disk": 0}
        self.wrong: list[str] = []
        self.written = self._text()

    def ports(self) -> dict[str, int]:
        return {model_id: 9001 + number for number, model_id in enumerate(self.models)}

    def probe(self, port: int, path: str) -> Readiness:
        return Readiness(ready=self.models[port - 9001] not in self.slow, phase="loading")

    def find_all(self) -> list[Container]:
        self._reach()
        return super().find_all()

    def find(self, model_id: str) -> Container | None:
        self._reach()
        found = [c for c in self.containers.values() if c.model_id == model_id]
        return max(found, key=lambda c: c.running, default=None)

    def inspect(self, container_id: str) -> Container | None:
        self._reach()
        return super().inspect(container_id)

    def usage(self, container_ids: list[str]) -> dict[str, Usage]:
        self._reach()
        return super().usage(container_ids)

    def drifted(self, containers: list[Container]) -> set[str]:
        self._reach()
        return {c.model_id for c in containers if c.config_hash != self.written.get(c.model_id)}

    def write(self) -> None:
        self.written = self._text()

    def deploy(self, registry: Registry) -> None:
        before, self.registry.now = self.registry.now, registry
        try:
            self._write_if_room()
        except FilesUnwritable:
            self.registry.now = before
            raise

    def prepare(self, model_id: str, on_progress: OnProgress, cancelled: Callable[[], bool]) -> None:
        call = self._begun(Call("prepare", model_id))
        while call.succeeds is None:
            if cancelled():
                self.answer(call, succeeds=False)
                raise Cancelled(f"preparing {model_id} was cancelled")
            on_progress(PreparationProgress(phase="converting"))
            self.clock.sleep(LOOK_S)
        if not call.succeeds:
            raise PreparationFailed(f"{model_id} cannot be converted")
        self.prepared = {*(self.prepared or ()), model_id}

    def resume(self, model_id: str) -> Container | None:
        self.resumed.discard(model_id)
        self._write_if_room()
        ended = [c for c in self.containers.values() if c.model_id == model_id and c.id in self.ours]
        made = next((c for c in ended if not c.running and c.config_hash == self.written.get(model_id)), None)
        if made is None:
            return None
        succeeds = self._ended(Call("resume", model_id))
        self.resumed.add(model_id)
        if not succeeds or made.id not in self.containers:
            return None
        running = self.running(model_id)
        return running if running is not None else self._runs(replace(made, status="running", exit_code=None))

    def up(self, model_id: str) -> Container:
        self._write_if_room()
        succeeds = self._ended(Call("up", model_id))
        running = self.running(model_id)
        if running is None and not succeeds:
            raise StartFailed(f"{model_id} does not start")
        return running if running is not None else self.create(model_id)

    def stop(self, container_id: str, *, grace_s: int) -> None:
        if container_id not in self.containers:
            return
        model_id = self.containers[container_id].model_id
        if not self._ended(Call("stop", model_id, container_id)):
            raise DockerError(f"{container_id} does not stop")
        self.end(container_id, exit_code=0)

    def delete_files(self, model_id: str) -> int:
        if self.running(model_id) is not None:
            raise ModelBusy(f"{model_id} runs")
        if not self._ended(Call("delete", model_id)):
            raise DockerError(f"the volume of {model_id} is in use")
        self.prepared = (self.prepared or set()) - {model_id}
        return 123

    def remove_leftovers(self, known: Collection[str]) -> None:
        self._reach()
        self.containers = {i: c for i, c in self.containers.items() if c.model_id in known}

    def create(self, model_id: str, *, by_hand: bool = False) -> Container:
        """A new container in the place of the model's ended one."""
        number = next(self._numbers)
        container = make_container(
            model_id,
            id=f"{model_id}-{number}",
            port=self.ports()[model_id],
            memory_limit_bytes=1,
            config_hash=self.written.get(model_id, ""),
        )
        if not by_hand:
            self.ours.add(container.id)
        self.containers = {i: c for i, c in self.containers.items() if c.model_id != model_id or c.running}
        return self._runs(container)

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

    def _write_if_room(self) -> None:
        if self._text() != self.written:
            if self._fails("disk"):
                raise FilesUnwritable("the disk is full")
            self.written = self._text()

    def _text(self) -> dict[str, str]:
        return self.service_texts(self.registry)

    def _reach(self) -> None:
        if self._fails("docker"):
            raise DockerUnavailable("Docker is away")

    def _fails(self, what: str) -> bool:
        left = self.to_fail[what]
        self.to_fail[what] = max(left - 1, 0)
        return left > 0

    def _runs(self, container: Container) -> Container:
        began = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=next(self._numbers))
        self.containers = {**self.containers, container.id: replace(container, started_at=began)}
        return self.containers[container.id]

    def _begun(self, call: Call) -> Call:
        self._reach()
        with self.answered:
            self._judge(call)
            self.under_way.append(call)
        return call

    def _ended(self, call: Call) -> bool:
        self._begun(call)
        with self.answered:
            assert self.answered.wait_for(lambda: call.succeeds is not None, PARKED_S), f"{call} was never answered"
        return bool(call.succeeds)

    def _judge(self, call: Call) -> None:
        """One thing at a time is done with a model; a start finds none of its containers running, and all that we
        start fits the budget together. What others started counts where the supervisor knew of it."""
        running = [c for c in self.containers.values() if c.running]
        beside = [str(other) for other in self.under_way if other.model_id == call.model_id]
        beside += [c.id for c in running if c.model_id == call.model_id and call.is_start]
        if beside:
            self.wrong.append(f"{call} was asked for beside {beside}")
        if call.is_start:
            # The budget was looked at right before the first command of a start, and not again before its second.
            counted = self.ours if call.model_id in self.resumed else self.ours | self.counted
            takers = {c.model_id for c in running if c.id in counted} | {call.model_id}
            takers |= {other.model_id for other in self.under_way if other.is_start}
            taken = sum(self.need[taker].memory_bytes for taker in takers)
            if taken > self.budget.memory_bytes:
                self.wrong.append(f"{call} was asked for with {sorted(takers)}, which take {taken} together")
