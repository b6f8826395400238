"""Prepare containers in memory, for tests of what the controller does with their ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

from controller.docker.container import Container
from tests.fakes import make_container

FACTS = (
    '{"weights_bytes": 10, "parameters": 5, "kv_bytes_per_token": 2, "context_length": 64, "dtype": "bfloat16", '
    '"architecture": "llama", "has_tools": true}'
)


class PreparingDocker:
    """Prepare containers in memory: each runs for one poll, then ends as scripted."""

    project = "test"

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.volume_birth = datetime(2026, 1, 1, tzinfo=UTC)
        self.exit_code = 0
        self.oom_killed = False
        self.lines = ['{"phase": "converting", "fraction": 0.25}']
        self.last_lines = ["noise", FACTS]
        self.current: Container | None = None
        self.while_running: Callable[[], None] = lambda: None

    def up(self, service: str) -> None:
        self.calls.append(f"up {service}")
        self.current = make_container("tiny", id="preparing", service=service)

    def preparations(self, model_id: str | None = None) -> list[Container]:
        return [self.current] if self.current else []

    def inspect(self, container_id: str) -> Container | None:
        container = self.current
        if container is not None and container.running:
            self.while_running()
            self.current = replace(container, status="exited", exit_code=self.exit_code, oom_killed=self.oom_killed)
        return container

    def logs(self, container_id: str, *, tail: int) -> list[str]:
        assert self.current is not None
        return self.lines if self.calls[-1].startswith("up") and self._first_look() else self.last_lines

    def _first_look(self) -> bool:
        self.calls.append("look")
        return True

    def remove(self, container_id: str) -> None:
        self.calls.append("remove")
        self.current = None

    def remove_volume(self, name: str) -> None:
        self.calls.append(f"remove volume {name}")

    def volume_created_at(self, name: str) -> datetime | None:
        return self.volume_birth

    def volumes(self, model_id: str) -> list[str]:
        return []
