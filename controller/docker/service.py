"""The only home of python-on-whales: compose verbs, and looks at containers, volumes and images."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Literal

from python_on_whales import DockerClient
from python_on_whales.exceptions import NoSuchContainer, NoSuchImage, NoSuchVolume
from python_on_whales.utils import run as run_command

from controller.docker.calls import client, docker_errors
from controller.docker.container import (
    MODEL_LABEL,
    NOT_ONEOFF,
    PREPARE_LABEL,
    PROJECT_LABEL,
    Container,
    Usage,
    read_container,
)
from controller.docker.endings import ContainerEndings, Ending
from controller.docker.events import Event, EventFeed
from controller.docker.image_pull import OnLayers, pull
from controller.errors import DockerError, DockerTimeout

COMPOSE_DEADLINE_S = 30.0
TURN_DEADLINE_S = 60.0
LOOK_DEADLINE_S = 10.0
# Between a container's end and the news of it; with a feed that is away it is waited in vain.
EVENTS_LAG_S = 1.0
# Ten gigabytes over a slow line; whoever wants it to end sooner cancels it.
PULL_DEADLINE_S = 6 * 3600.0
COMPOSE_FILE = "compose.yaml"
OVERRIDE_FILE = "compose.override.yaml"


class DockerService:
    """One Compose project on one engine. Thread-safe; compose verbs wait for each other, looks do not.

    Every method raises DockerUnavailable when the engine does not answer, DockerTimeout when a call ran into its
    deadline, and DockerError with Docker's last words otherwise.
    """

    def __init__(self, *, project: str, compose_dir: Path) -> None:
        self.project = project
        self._folder = compose_dir
        # Compose calls on one project race with each other (two `up`s both create), so they take turns.
        self._compose_turn = threading.Lock()
        self._happenings = ContainerEndings()
        self._hashed: tuple[str, dict[str, str]] | None = None

    def version(self) -> str:
        """The engine's version."""
        with docker_errors("asking Docker for its version"):
            server = self._client(LOOK_DEADLINE_S).version().server
            return (server.version if server else None) or "unknown"

    def memory_bytes(self) -> int:
        """The memory of the engine's machine."""
        with docker_errors("asking Docker for its memory"):
            found = self._client(LOOK_DEADLINE_S).system.info().mem_total
        if not found:
            raise DockerError("Docker does not say how much memory there is; write memory_budget in models.yaml")
        return found

    def follow(self, on_event: Callable[[Event], None], on_gap: Callable[[], None]) -> EventFeed:
        """What tells of the models' containers once it is started; `ending` knows of each event first."""

        def tell(event: Event) -> None:
            self._happenings.note(event)
            on_event(event)

        return EventFeed(self.project, tell, on_gap)

    def ending(self, container_id: str) -> Ending:
        """What the feed told of how the container ended; waits a moment for events that are on their way."""
        return self._happenings.ending(container_id, EVENTS_LAG_S)

    def up(self, service: str) -> None:
        """`docker compose up` of one service, nothing else touched; does not wait for it to be healthy."""
        with self._turn(f"docker compose up {service}"), docker_errors(f"docker compose up {service}"):
            self._client(COMPOSE_DEADLINE_S).compose.up(
                [service], detach=True, dependencies=False, no_build=True, quiet=True, color=False
            )

    def described(self) -> str | None:
        """The text of the Compose file; None when it is not the whole say.

        An override may take values from the environment and from any other file, so that only Compose can tell what it
        means now. The generated file names nothing outside of itself.
        """
        try:
            if (self._folder / OVERRIDE_FILE).exists():
                return None
            return (self._folder / COMPOSE_FILE).read_text(encoding="utf-8")
        except (OSError, ValueError):
            return None

    def config_hashes(self) -> dict[str, str]:
        """Compose's own hash of each service as the files describe it now, the override included.

        Compose is asked anew only for a file that it was not asked about last time, or where there is an override.
        """
        described = self.described()
        known = self._hashed
        if known is not None and known[0] == described:
            return known[1]
        whales = self._client(COMPOSE_DEADLINE_S, profiles=["*"])
        with docker_errors("docker compose config --hash"):
            # python-on-whales has no method for `config --hash`; its command line is the one it would build itself.
            lines = run_command([*whales.compose.docker_compose_cmd, "config", "--hash", "*"])
        hashes = dict(line.split() for line in str(lines).splitlines() if len(line.split()) == 2)
        self._hashed = None if described is None or described != self.described() else (described, hashes)
        return hashes

    def models(self) -> list[Container]:
        """Every container of the project that serves a model, running or not."""
        return self._labelled(MODEL_LABEL)

    def model(self, model_id: str) -> Container | None:
        """The container that serves this model: a running one before one that ended."""
        found = self._labelled(f"{MODEL_LABEL}={model_id}")
        return max(found, key=lambda c: (c.running, c.started_at is not None, str(c.started_at)), default=None)

    def preparations(self, model_id: str | None = None) -> list[Container]:
        """The containers that prepare, or prepared, this model; without one, any of the project's."""
        return self._labelled(PREPARE_LABEL if model_id is None else f"{PREPARE_LABEL}={model_id}")

    def inspect(self, container_id: str) -> Container | None:
        """The container as it is now; None when it is gone."""
        with docker_errors("looking at a container", NoSuchContainer):
            return read_container(self._client(LOOK_DEADLINE_S).container.inspect(container_id))
        return None

    def state_and_image(self, container_id: str, image: str) -> tuple[str, str]:
        """A container's status, and the id that an image's name means now, in one call; DockerError without either."""
        with docker_errors("looking at a container and its image"):
            docker = self._client(LOOK_DEADLINE_S).client_config.docker_cmd
            container, found = json.loads(str(run_command([*docker, "inspect", container_id, image])))
            try:
                return str(container["State"]["Status"]), str(found["Id"])
            except KeyError as exc:
                raise ValueError(f"no {exc} in Docker's answer") from exc

    def start(self, container_id: str) -> None:
        """Start an ended container; does not wait for it to be healthy."""
        with docker_errors("starting a container"):
            self._client(COMPOSE_DEADLINE_S).container.start(container_id)

    def logs(self, container_id: str, *, tail: int, since: datetime | None = None) -> list[str]:
        """The last `tail` lines it wrote, since a time on Docker's own clock; empty when it is gone."""
        with docker_errors("reading a container's log", NoSuchContainer):
            return str(self._client(LOOK_DEADLINE_S).container.logs(container_id, tail=tail, since=since)).splitlines()
        return []

    def stop(self, container_id: str, *, grace_s: int) -> None:
        """SIGTERM, SIGKILL after `grace_s`; returns when the process has ended or was gone already."""
        with docker_errors("stopping a container", NoSuchContainer):
            # python-on-whales 0.81 drops a time given in seconds, and Docker then waits as long as the container asks.
            docker = self._client(grace_s + LOOK_DEADLINE_S).client_config.docker_cmd
            run_command([*docker, "container", "stop", "--time", str(grace_s), container_id])

    def remove(self, container_id: str) -> None:
        """Remove a container, running or not; its named volumes stay."""
        with docker_errors("removing a container", NoSuchContainer):
            self._client(LOOK_DEADLINE_S).container.remove(container_id, force=True)

    def usage(self, container_ids: Iterable[str]) -> dict[str, Usage]:
        """What each container uses now, by its id; Docker measures for about 2 s."""
        with docker_errors("measuring containers", NoSuchContainer):
            rows = self._client(LOOK_DEADLINE_S).stats(containers=list(container_ids))
            return {r.container_id: Usage(cpu_percent=r.cpu_percentage, memory_bytes=r.memory_used) for r in rows}
        return {}

    def image_id(self, reference: str) -> str | None:
        """The local image's id; None when there is none."""
        with docker_errors(f"looking for the image {reference}", NoSuchImage):
            return str(self._client(LOOK_DEADLINE_S).image.inspect(reference).id)
        return None

    def pull(self, reference: str, *, on_layers: OnLayers, cancelled: Callable[[], bool]) -> None:
        """Fetch an image; `on_layers` is told how many of its layers are here and how many were named so far.

        Raises Cancelled soon after `cancelled()`; what has come is dropped then, but for layers that are whole.
        """
        pull(self._client(PULL_DEADLINE_S).client_config.docker_cmd, reference, on_layers, cancelled)

    def volume_created_at(self, name: str) -> datetime | None:
        """When the volume was made: tells a volume from a later one of the same name. None when there is none."""
        with docker_errors(f"looking for the volume {name}", NoSuchVolume):
            return self._client(LOOK_DEADLINE_S).volume.inspect(name).created_at
        return None

    def volumes(self, model_id: str) -> list[str]:
        """The names of the prepared volumes of this model."""
        labels = self._filters(f"{PREPARE_LABEL}={model_id}")
        with docker_errors("listing volumes"):
            return [volume.name for volume in self._client(LOOK_DEADLINE_S).volume.list(filters=labels)]

    def remove_volume(self, name: str) -> None:
        """Remove a volume that no container uses."""
        with docker_errors(f"removing the volume {name}", NoSuchVolume):
            self._client(LOOK_DEADLINE_S).volume.remove(name)

    @contextmanager
    def _turn(self, doing: str) -> Iterator[None]:
        """Whoever waits for an engine that hangs waits for those before it, too, but not for ever."""
        if not self._compose_turn.acquire(timeout=TURN_DEADLINE_S):
            raise DockerTimeout(f"{doing}: other Compose commands did not finish in time. Look at `docker info`.")
        try:
            yield
        finally:
            self._compose_turn.release()

    def _labelled(self, label: str) -> list[Container]:
        whales = self._client(LOOK_DEADLINE_S)
        # What `docker compose run` makes carries the service's labels, too, and serves nobody.
        filters = self._filters(label, NOT_ONEOFF)
        with docker_errors("listing containers"):
            ids = [found.id for found in whales.container.list(all=True, filters=filters)]
        with docker_errors("looking at containers", NoSuchContainer):
            return [read_container(found) for found in whales.container.inspect(ids)] if ids else []
        # One went away between the listing and the look at it.
        return [container for container in map(self.inspect, ids) if container is not None]

    def _filters(self, *labels: str) -> list[tuple[Literal["label"], str]]:
        return [("label", label) for label in (f"{PROJECT_LABEL}={self.project}", *labels)]

    def _client(self, deadline_s: float, *, profiles: Iterable[str] = ()) -> DockerClient:
        files = [self._folder / COMPOSE_FILE]
        if (self._folder / OVERRIDE_FILE).exists():
            files.append(self._folder / OVERRIDE_FILE)
        whales = client(deadline_s, project=self.project, files=files, folder=self._folder)
        whales.client_config.compose_profiles = list(profiles)
        return whales
