"""Fakes of the world outside the supervisor: a clock moved by hand and a Docker that a test scripts."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from controller.docker.container import Container, Usage
from controller.docker.endings import Ending
from controller.errors import OrchestrarError
from controller.registry import LiveRegistry, ModelSpec, Registry
from controller.registry.source_ref import FileSource
from controller.supervisor.backend import Amount, ModelFacts, OnProgress, Readiness

# How long a test waits in real time for a thread before it calls that a hang.
HANG_S = 10.0


def make_spec(model_id: str = "tiny", **values: Any) -> ModelSpec:
    """Return a valid model, with only the values that a test cares about."""
    return ModelSpec(id=model_id, source=FileSource(Path("/models/tiny")), **{"engine": "transformers", **values})


def make_container(model_id: str = "tiny", **values: Any) -> Container:
    """Return a running container of a model."""
    fields: dict[str, Any] = {
        "id": f"{model_id}-container",
        "name": f"test-{model_id}-1",
        "model_id": model_id,
        "service": model_id,
        "status": "running",
        "exit_code": None,
        "oom_killed": False,
        "health": "starting",
        "error": "",
        "port": 9001,
        "started_at": None,
        "config_hash": "hash",
        "image": "image:latest",
        "image_id": "image",
        "memory_limit_bytes": 1 << 30,
    }
    return Container(**{**fields, **values})


class FakeClock:
    """Time that passes only by `advance` and by `sleep`, which returns at once."""

    def __init__(self) -> None:
        self._now = 1000.0
        self._lock = threading.Condition()
        self._waiting: list[threading.Condition] = []

    def monotonic(self) -> float:
        return self._now

    def sleep(self, seconds: float, /) -> None:
        self.advance(seconds)

    def advance(self, seconds: float) -> None:
        """Let time pass and wake every waiter to look at it."""
        with self._lock:
            self._now += seconds
            waiting = list(self._waiting)
        for condition in waiting:
            with condition:
                condition.notify_all()

    def wait(self, condition: threading.Condition, timeout_s: float | None, /) -> None:
        with self._lock:
            self._waiting.append(condition)
            self._lock.notify_all()
        try:
            assert condition.wait(HANG_S), "a waiter was never woken"
        finally:
            with self._lock:
                self._waiting.remove(condition)

    def until_waiting(self, count: int) -> None:
        """Return when `count` threads wait on this clock."""
        with self._lock:
            assert self._lock.wait_for(lambda: len(self._waiting) >= count, HANG_S), "the waiters did not come"


class FakeBackend:
    """Containers in memory. A test scripts it by its attributes and reads `calls` afterwards."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.containers: dict[str, Container] = {}
        self.endings: dict[str, Ending] = {}
        self.prepared_models: set[str] | None = None
        self.resumable: dict[str, str] = {}
        self.engines: dict[str, str] = {}
        """What the models' files have decided, by id."""
        self.model_facts: dict[str, ModelFacts] = {}
        self.budget = Amount(memory_bytes=1 << 40)
        self.need: dict[str, Amount] = {}
        self.working_sets: dict[str, int] = {}
        self.observed: dict[str, int] = {}
        self.ready = True
        self.phase = ""
        self.up_gate = threading.Event()
        self.up_gate.set()
        self.up_reached = threading.Event()
        self.stop_gate = threading.Event()
        self.stop_gate.set()
        self.stop_reached = threading.Event()
        self.up_error: OrchestrarError | None = None
        self.stop_error: OrchestrarError | None = None
        self.image_error: OrchestrarError | None = None
        self.write_error: OrchestrarError | None = None
        self.models = ["tiny", "other"]
        self.after_up: Callable[[Container], Container] = lambda container: container
        self.on_prepare: Callable[[str, OnProgress, Callable[[], bool]], None] = lambda *_: None
        self.log = ["the last line"]
        self._numbers = itertools.count(1)

    def probe(self, port: int, path: str) -> Readiness:
        """Answer a readiness probe as the fake's containers would."""
        return Readiness(ready=self.ready, phase=self.phase, phases={"load_s": 1.0} if self.ready else {})

    def is_prepared(self, model_id: str) -> bool:
        return self.prepared_models is None or model_id in self.prepared_models

    def decided(self, spec: ModelSpec) -> ModelSpec:
        engine = self.engines.get(spec.id)
        return spec if engine is None else spec.on(engine, "the fake says so")

    def require_image(self, model_id: str) -> None:
        if self.image_error is not None:
            raise self.image_error

    def prepare(self, model_id: str, on_progress: OnProgress, cancelled: Callable[[], bool]) -> None:
        self.calls.append(f"prepare {model_id}")
        self.on_prepare(model_id, on_progress, cancelled)
        if self.prepared_models is not None:
            self.prepared_models.add(model_id)

    def facts(self, model_id: str) -> ModelFacts | None:
        return self.model_facts.get(model_id)

    def find_all(self) -> list[Container]:
        return list(self.containers.values())

    def find(self, model_id: str) -> Container | None:
        return next((c for c in self.containers.values() if c.model_id == model_id), None)

    def inspect(self, container_id: str) -> Container | None:
        return self.containers.get(container_id)

    def ending(self, container_id: str) -> Ending:
        return self.endings.get(container_id, Ending())

    def resume(self, model_id: str) -> Container | None:
        container_id = self.resumable.pop(model_id, None)
        if container_id is None:
            return None
        self.calls.append(f"resume {model_id}")
        self.containers[container_id] = replace(self.containers[container_id], status="running", exit_code=None)
        return self.containers[container_id]

    def up(self, model_id: str) -> Container:
        self.calls.append(f"up {model_id}")
        self.up_reached.set()
        assert self.up_gate.wait(HANG_S)
        if self.up_error is not None:
            raise self.up_error
        container = self.after_up(make_container(model_id, id=f"{model_id}-{next(self._numbers)}"))
        others = {i: c for i, c in self.containers.items() if c.model_id != model_id}
        # At once: other threads look at them meanwhile.
        self.containers = {**others, container.id: container}
        return container

    def stop(self, container_id: str, *, grace_s: int) -> None:
        self.calls.append(f"stop {container_id}")
        self.stop_reached.set()
        assert self.stop_gate.wait(HANG_S)
        if self.stop_error is not None:
            raise self.stop_error
        self.end(container_id, exit_code=0)

    def logs(self, container: Container) -> list[str]:
        return self.log

    def usage(self, container_ids: list[str]) -> dict[str, Usage]:
        return {i: Usage(cpu_percent=1.0, memory_bytes=1000) for i in container_ids}

    def service_texts(self, registry: Registry | LiveRegistry) -> dict[str, str]:
        return {spec.id: f"{spec.image} {spec.port} {sorted(spec.env.items())}" for spec in registry.models.values()}

    def write(self) -> None: ...

    def end_orphans(self) -> None: ...

    def outdated(self) -> set[str]:
        return set()

    def deploy(self, registry: Registry) -> None:
        self.calls.append("deploy")
        if self.write_error is not None:
            raise self.write_error
        self.models = list(registry.models)

    def working_set(self, container_id: str) -> int | None:
        return self.working_sets.get(container_id)

    def room(self, used_bytes: int) -> Amount:
        return self.budget

    def needs(self, model_id: str, *, limit_bytes: int | None = None) -> Amount:
        return self.need.get(model_id, Amount(memory_bytes=1))

    def observe(self, model_id: str, used_bytes: int) -> None:
        self.observed[model_id] = used_bytes

    def drifted(self, containers: list[Container]) -> set[str]:
        return {c.model_id for c in containers if c.config_hash != "hash"}

    def delete_files(self, model_id: str) -> int:
        self.calls.append(f"delete {model_id}")
        if self.prepared_models is not None:
            self.prepared_models.discard(model_id)
        return 123

    def ports(self) -> dict[str, int]:
        return {model_id: 9001 + number for number, model_id in enumerate(self.models)}

    def end(self, container_id: str, *, exit_code: int, oom_killed: bool = False) -> None:
        """End a container's process, for whatever cause."""
        container = self.containers.get(container_id)
        if container is not None:
            container = replace(container, status="exited", exit_code=exit_code, oom_killed=oom_killed)
            self.containers[container_id] = container
