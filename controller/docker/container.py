"""What Docker says about one container, reduced to what the controller needs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from python_on_whales import Container as WhalesContainer

MODEL_LABEL = "orchestrar.model"
ENGINE_LABEL = "orchestrar.engine"
PREPARE_LABEL = "orchestrar.prepare"
PROJECT_LABEL = "com.docker.compose.project"
SERVICE_LABEL = "com.docker.compose.service"
CONFIG_HASH_LABEL = "com.docker.compose.config-hash"
NOT_ONEOFF = "com.docker.compose.oneoff=False"
# The port of the server inside, and the path that says whether it is ready. The container itself names them, so that we
# understand a running one even after its engine's template has changed.
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
    config_hash: str
    image: str
    image_id: str
    memory_limit_bytes: int
    ready_path: str = RUNNER_READY
    engine: str = ""
    """The engine that runs in it; empty if it does not say so."""

    def is_same_run(self, other: Container) -> bool:
        """Return whether both are one container without a restart in between; `started_at` None matches any."""
        starts = (self.started_at, other.started_at)
        return self.id == other.id and (None in starts or starts[0] == starts[1])

    @property
    def running(self) -> bool:
        """Return whether the process is there and holds its port, which it does also while paused."""
        return self.status in ("running", "paused", "restarting")


@dataclass(frozen=True, kw_only=True)
class Usage:
    """CPU in percent of one core, and memory as Docker counts it, without page cache that can be freed."""

    cpu_percent: float
    memory_bytes: int


def read_container(inspected: WhalesContainer) -> Container:
    """Reduce python-on-whales' inspect result (one `docker inspect` if it was not loaded yet)."""
    labels = inspected.config.labels or {}
    state = inspected.state
    return Container(
        id=inspected.id,
        name=inspected.name,
        model_id=labels.get(MODEL_LABEL) or labels.get(PREPARE_LABEL) or "",
        service=labels.get(SERVICE_LABEL, ""),
        status=state.status or "unknown",
        exit_code=state.exit_code,
        oom_killed=bool(state.oom_killed),
        health=state.health.status if state.health else None,
        error=state.error or "",
        port=_host_port(inspected, f"{labels.get(PORT_LABEL, RUNNER_PORT)}/tcp"),
        started_at=state.started_at,
        config_hash=labels.get(CONFIG_HASH_LABEL, ""),
        image=inspected.config.image or "",
        image_id=inspected.image,
        memory_limit_bytes=inspected.host_config.memory or 0,
        engine=labels.get(ENGINE_LABEL, ""),
        ready_path=labels.get(READY_LABEL, RUNNER_READY),
    )


def _host_port(inspected: WhalesContainer, inside: str) -> int | None:
    live_bindings = (inspected.network_settings.ports or {}).get(inside)
    if live_bindings:
        return int(live_bindings[0]["HostPort"])
    bindings = (inspected.host_config.port_bindings or {}).get(inside)
    if bindings and bindings[0].host_port:
        return int(bindings[0].host_port)
    return None
