"""What Docker says of one container, reduced to what the controller decides by."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from python_on_whales import Container as WhalesContainer

MODEL_LABEL = "orchestrar.model"
PREPARE_LABEL = "orchestrar.prepare"
PROJECT_LABEL = "com.docker.compose.project"
SERVICE_LABEL = "com.docker.compose.service"
CONFIG_HASH_LABEL = "com.docker.compose.config-hash"
NOT_ONEOFF = "com.docker.compose.oneoff=False"
# Where the server listens inside, and the path that tells whether it serves: the container itself says it, so that one
# that runs is understood whatever became of its engine's template since.
PORT_LABEL = "orchestrar.port"
READY_LABEL = "orchestrar.ready"
RUNNER_PORT = "8000"
RUNNER_READY = "/health"


@dataclass(frozen=True, kw_only=True)
class Container:
    """A container of our project as last inspected.

    `port` is the host's port that reaches the server; a container that does not run keeps the one it asked for.
    """

    id: str
    name: str
    model_id: str
    service: str
    status: str
    exit_code: int | None
    oom_killed: bool
    health: str | None
    error: str
    port: int | None
    started_at: datetime | None
    finished_at: datetime | None
    config_hash: str
    image: str
    image_id: str
    memory_limit_bytes: int
    ready_path: str = RUNNER_READY

    def is_same_run(self, other: Container) -> bool:
        """Whether both are one container that was not started anew in between; `started_at` None stands for any."""
        known = (self.started_at, other.started_at)
        return self.id == other.id and (None in known or known[0] == known[1])

    @property
    def running(self) -> bool:
        """True also while paused: the process is there and holds its port."""
        return self.status in ("running", "paused", "restarting")


@dataclass(frozen=True, kw_only=True)
class Usage:
    """CPU in percent of one core, memory as Docker counts it (page cache that could go left out)."""

    cpu_percent: float
    memory_bytes: int


def read_container(found: WhalesContainer) -> Container:
    """Reduce python-on-whales' inspect result (one `docker inspect` when it was not loaded yet)."""
    labels = found.config.labels or {}
    state = found.state
    return Container(
        id=found.id,
        name=found.name,
        model_id=labels.get(MODEL_LABEL) or labels.get(PREPARE_LABEL) or "",
        service=labels.get(SERVICE_LABEL, ""),
        status=state.status or "unknown",
        exit_code=state.exit_code,
        oom_killed=bool(state.oom_killed),
        health=state.health.status if state.health else None,
        error=state.error or "",
        port=_host_port(found, f"{labels.get(PORT_LABEL, RUNNER_PORT)}/tcp"),
        started_at=state.started_at,
        finished_at=state.finished_at,
        config_hash=labels.get(CONFIG_HASH_LABEL, ""),
        image=found.config.image or "",
        image_id=found.image,
        memory_limit_bytes=found.host_config.memory or 0,
        ready_path=labels.get(READY_LABEL, RUNNER_READY),
    )


def _host_port(found: WhalesContainer, inside: str) -> int | None:
    published = (found.network_settings.ports or {}).get(inside)
    if published:
        return int(published[0]["HostPort"])
    asked = (found.host_config.port_bindings or {}).get(inside)
    if asked and asked[0].host_port:
        return int(asked[0].host_port)
    return None
