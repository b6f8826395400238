"""A Docker whose commands end when the test says so, and which notes commands that must not come."""

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
    """Models that need so much of the `budget` each. `wrong` collects commands that must not come.

    `to_fail` says how many of the next looks at Docker, and writes of its file, fail. `ours` are the containers that we
    started, `counted_ids` those that others started and the supervisor counts.
    """

    def __init__(self, registry: DeployedModels, needs: Mapping[str, int], budget: int, clock: ParkingClock) -> None:
        super().__init__()
        self.registry = registry
        self.models = list(needs)
        self.need = {model_id: Amount(memory_bytes=need) for model_id, need in needs.items()}
        self.budget = Amount(memory_bytes=budget)
        self.prepared_models = set(needs)
        self.clock = clock
        self.under_way: list[Call] = []
        self.on_answer = threading.Condition()
        self.ours: set[str] = set()
        self.counted_ids: set[str] = set()
        self.resumed_models: set[str] = set()
        self.slow: set[str] = set()
        self.to_fail = {"docker": 0, "disk": 0}
        self.wrong: list[str] = []
        self.file = self._text()

    def ports(self) -> dict[str, int]:
        return {model_id: 9001 + number for number, model_id in enumerate(self.models)}

    def probe(self, port: int, path: str) -> Readiness:
        return Readiness(ready=self.models[port - 9001] not in self.slow, phase="loading")

    def find_all(self) -> list[Container]:
        self._reach()
        return super().find_all()

    def find(self, model_id: str) -> Container | None:
        self._reach()
        containers = [c for c in self.containers.values() if c.model_id == model_id]
        return max(containers, key=lambda c: c.running, default=None)

    def inspect(self, container_id: str) -> Container | None:
        self._reach()
        return super().inspect(container_id)

    def usage(self, container_ids: list[str]) -> dict[str, Usage]:
        self._reach()
        return super().usage(container_ids)

    def drifted(self, containers: list[Container]) -> set[str]:
        self._reach()
        return {c.model_id for c in containers if c.config_hash != self.file.get(c.model_id)}

    def write(self) -> None:
        self.file = self._text()

    def deploy(self, registry: Registry) -> None:
        before, self.registry.now = self.registry.now, registry
        try:
            self._write_if_room()
        except FilesUnwritable:
            self.registry.now = before
            raise

    def prepare(self, model_id: str, on_progress: OnProgress, cancelled: Callable[[], bool]) -> None:
        call = self._begin(Call("prepare", model_id))
        while call.succeeds is None:
            if cancelled():
                self.answer(call, succeeds=False)
                raise Cancelled(f"preparing {model_id} was cancelled")
            on_progress(PreparationProgress(phase="converting"))
            self.clock.sleep(LOOK_S)
        if not call.succeeds:
            raise PreparationFailed(f"{model_id} cannot be converted")
        self.prepared_models = {*(self.prepared_models or ()), model_id}

    def resume(self, model_id: str) -> Container | None:
        self.resumed_models.discard(model_id)
        self._write_if_room()
        ours = [c for c in self.containers.values() if c.model_id == model_id and c.id in self.ours]
        old = next((c for c in ours if not c.running and c.config_hash == self.file.get(model_id)), None)
        if old is None:
            return None
        succeeds = self._run(Call("resume", model_id))
        self.resumed_models.add(model_id)
        if not succeeds or old.id not in self.containers:
            return None
        running = self.running(model_id)
        return running if running is not None else self._runs(replace(old, status="running", exit_code=None))

    def up(self, model_id: str) -> Container:
        self._write_if_room()
        succeeds = self._run(Call("up", model_id))
        running = self.running(model_id)
        if running is None and not succeeds:
            raise StartFailed(f"{model_id} does not start")
        return running if running is not None else self.create(model_id)

    def stop(self, container_id: str, *, grace_s: int) -> None:
        if container_id not in self.containers:
            return
        model_id = self.containers[container_id].model_id
        if not self._run(Call("stop", model_id, container_id)):
            raise DockerError(f"{container_id} does not stop")
        self.end(container_id, exit_code=0)

    def delete_files(self, model_id: str) -> int:
        if self.running(model_id) is not None:
            raise ModelBusy(f"{model_id} runs")
        if not self._run(Call("delete", model_id)):
            raise DockerError(f"the volume of {model_id} is in use")
        self.prepared_models = (self.prepared_models or set()) - {model_id}
        return 123

    def remove_leftovers(self, model_ids: Collection[str]) -> None:
        self._reach()
        self.containers = {i: c for i, c in self.containers.items() if c.model_id in model_ids}

    def create(self, model_id: str, *, by_hand: bool = False) -> Container:
        """Create a container in the place of the model's ended one."""
        number = next(self._numbers)
        container = make_container(
            model_id,
            id=f"{model_id}-{number}",
            port=self.ports()[model_id],
            memory_limit_bytes=1,
            config_hash=self.file.get(model_id, ""),
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
        with self.on_answer:
            call.succeeds = succeeds
            self.under_way.remove(call)
            self.on_answer.notify_all()

    def _write_if_room(self) -> None:
        if self._text() != self.file:
            if self._fails("disk"):
                raise FilesUnwritable("the disk is full")
            self.file = self._text()

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

    def _begin(self, call: Call) -> Call:
        self._reach()
        with self.on_answer:
            self._judge(call)
            self.under_way.append(call)
        return call

    def _run(self, call: Call) -> bool:
        self._begin(call)
        with self.on_answer:
            assert self.on_answer.wait_for(lambda: call.succeeds is not None, PARKED_S), f"{call} got no answer"
        return bool(call.succeeds)

    def _judge(self, call: Call) -> None:
        """Note a command beside another one of the same model, a start beside a running container, and starts of ours
        beyond the budget. What others started counts if the supervisor knew of it."""
        running = [c for c in self.containers.values() if c.running]
        beside = [str(other) for other in self.under_way if other.model_id == call.model_id]
        beside += [c.id for c in running if c.model_id == call.model_id and call.is_start]
        if beside:
            self.wrong.append(f"{call} came beside {beside}")
        if call.is_start:
            # The supervisor looks at the budget right before the first command of a start, not before the second.
            counts = self.ours if call.model_id in self.resumed_models else self.ours | self.counted_ids
            takers = {c.model_id for c in running if c.id in counts} | {call.model_id}
            takers |= {other.model_id for other in self.under_way if other.is_start}
            total = sum(self.need[taker].memory_bytes for taker in takers)
            if total > self.budget.memory_bytes:
                self.wrong.append(f"{call} came with {sorted(takers)}, which take {total} together")
