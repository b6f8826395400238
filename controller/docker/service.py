"""One Compose project on one Docker engine: Compose commands, and queries about containers, volumes and images."""

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
COMPOSE_LOCK_DEADLINE_S = 60.0
LOOK_DEADLINE_S = 10.0
# Events arrive so long after a container's end; if the feed is down, the wait is in vain.
EVENTS_LAG_S = 1.0
# Ten gigabytes over a slow line; users can cancel it earlier.
PULL_DEADLINE_S = 6 * 3600.0
COMPOSE_FILE = "compose.yaml"
OVERRIDE_FILE = "compose.override.yaml"


class DockerService:
    """The only user of python-on-whales. Thread-safe; Compose commands wait for each other, queries do not.

    Every method raises DockerUnavailable if the engine does not answer, DockerTimeout if a call exceeds its deadline,
    and DockerError with Docker's last line for any other failure.
    """

    def __init__(self, *, project: str, compose_dir: Path) -> None:
        self.project = project
        self._folder = compose_dir
        # Compose commands on one project race with each other: two `up`s would both create the container.
        self._compose_mutex = threading.Lock()
        self._endings = ContainerEndings()
        self._hashes_of: tuple[str, dict[str, str]] | None = None

    def version(self) -> str:
        """Return the engine's version."""
        with docker_errors("asking Docker for its version"):
            server = self._client(LOOK_DEADLINE_S).version().server
            return (server.version if server else None) or "unknown"

    def memory_bytes(self) -> int:
        """Return the memory of the engine's machine."""
        with docker_errors("asking Docker for its memory"):
            total = self._client(LOOK_DEADLINE_S).system.info().mem_total
        if not total:
            raise DockerError("Docker does not report how much memory there is; set memory_budget in models.yaml")
        return total

    def follow(self, on_event: Callable[[Event], None], on_gap: Callable[[], None]) -> EventFeed:
        """Return the feed of the model containers' events, not yet started; `ending` learns of each event first."""

        def note(event: Event) -> None:
            self._endings.note(event)
            on_event(event)

        return EventFeed(self.project, note, on_gap)

    def ending(self, container_id: str) -> Ending:
        """Return how the container ended, by the feed's events; waits a moment for those that are on their way."""
        return self._endings.ending(container_id, EVENTS_LAG_S)

    def up(self, service: str) -> None:
        """Run `docker compose up` for this service alone; does not wait until it is healthy."""
        with self._compose_lock(f"docker compose up {service}"), docker_errors(f"docker compose up {service}"):
            self._client(COMPOSE_DEADLINE_S).compose.up(
                [service], detach=True, dependencies=False, no_build=True, quiet=True, color=False
            )

    def compose_text(self) -> str | None:
        """Return the text of the Compose file; None if the file does not describe the services completely.

        An override may use the environment and any other file, so that only Compose knows what it means now. The
        generated file refers to nothing outside of itself.
        """
        try:
            if (self._folder / OVERRIDE_FILE).exists():
                return None
            return (self._folder / COMPOSE_FILE).read_text(encoding="utf-8")
        except (OSError, ValueError):
            return None

    def config_hashes(self) -> dict[str, str]:
        """Return Compose's own hash of each service as the files describe it now, including the override.

        Compose runs again only if the file has changed since the last time, or if there is an override.
        """
        text = self.compose_text()
        if self._hashes_of is not None and self._hashes_of[0] == text:
            return self._hashes_of[1]
        whales = self._client(COMPOSE_DEADLINE_S, profiles=["*"])
        with docker_errors("docker compose config --hash"):
            # python-on-whales has no method for `config --hash`; the command line is the one that it would build.
            lines = run_command([*whales.compose.docker_compose_cmd, "config", "--hash", "*"])
        hashes = dict(line.split() for line in str(lines).splitlines() if len(line.split()) == 2)
        self._hashes_of = None if text is None or text != self.compose_text() else (text, hashes)
        return hashes

    def models(self) -> list[Container]:
        """Return every container of the project that serves a model, running or not."""
        return self._with_label(MODEL_LABEL)

    def model(self, model_id: str) -> Container | None:
        """Return the container that serves this model: a running one rather than one that has ended."""
        containers = self._with_label(f"{MODEL_LABEL}={model_id}")
        return max(containers, key=lambda c: (c.running, c.started_at is not None, str(c.started_at)), default=None)

    def preparations(self, model_id: str | None = None) -> list[Container]:
        """Return the containers that prepare this model, or have prepared it; without an id, those of all models."""
        return self._with_label(PREPARE_LABEL if model_id is None else f"{PREPARE_LABEL}={model_id}")

    def inspect(self, container_id: str) -> Container | None:
        """Return the container as it is now; None if it is gone."""
        with docker_errors("looking at a container", NoSuchContainer):
            return read_container(self._client(LOOK_DEADLINE_S).container.inspect(container_id))
        return None

    def state_and_image(self, container_id: str, image: str) -> tuple[str, str]:
        """Return a container's status and the current id of an image's name by one call; DockerError without either."""
        with docker_errors("looking at a container and its image"):
            docker = self._client(LOOK_DEADLINE_S).client_config.docker_cmd
            container, local_image = json.loads(str(run_command([*docker, "inspect", container_id, image])))
            try:
                return str(container["State"]["Status"]), str(local_image["Id"])
            except KeyError as exc:
                raise ValueError(f"no {exc} in Docker's answer") from exc

    def start(self, container_id: str) -> None:
        """Start a container that has ended; does not wait until it is healthy."""
        with docker_errors("starting a container"):
            self._client(COMPOSE_DEADLINE_S).container.start(container_id)

    def logs(self, container_id: str, *, tail: int, since: datetime | None = None) -> list[str]:
        """Return its last `tail` lines, written after `since` on Docker's own clock; empty if it is gone."""
        with docker_errors("reading a container's log", NoSuchContainer):
            return str(self._client(LOOK_DEADLINE_S).container.logs(container_id, tail=tail, since=since)).splitlines()
        return []

    def stop(self, container_id: str, *, grace_s: int) -> None:
        """Send SIGTERM, and SIGKILL after `grace_s`; returns when the process has ended."""
        with docker_errors("stopping a container", NoSuchContainer):
            # python-on-whales 0.81 drops a time given in seconds, and Docker then waits for the container's own period.
            docker = self._client(grace_s + LOOK_DEADLINE_S).client_config.docker_cmd
            run_command([*docker, "container", "stop", "--time", str(grace_s), container_id])

    def remove(self, container_id: str) -> None:
        """Remove a container, running or not; named volumes stay."""
        with docker_errors("removing a container", NoSuchContainer):
            self._client(LOOK_DEADLINE_S).container.remove(container_id, force=True)

    def usage(self, container_ids: Iterable[str]) -> dict[str, Usage]:
        """Return what each container uses now, by its id; Docker measures for about 2 s."""
        with docker_errors("measuring containers", NoSuchContainer):
            rows = self._client(LOOK_DEADLINE_S).stats(containers=list(container_ids))
            return {r.container_id: Usage(cpu_percent=r.cpu_percentage, memory_bytes=r.memory_used) for r in rows}
        return {}

    def image_id(self, reference: str) -> str | None:
        """Return the local image's id; None if there is none."""
        with docker_errors(f"looking for the image {reference}", NoSuchImage):
            return str(self._client(LOOK_DEADLINE_S).image.inspect(reference).id)
        return None

    def pull(self, reference: str, *, on_layers: OnLayers, cancelled: Callable[[], bool]) -> None:
        """Pull an image; `on_layers` gets how many of its layers are complete and how many are known so far.

        Raises Cancelled soon after `cancelled()`; Docker then keeps the layers that are complete.
        """
        pull(self._client(PULL_DEADLINE_S).client_config.docker_cmd, reference, on_layers, cancelled)

    def volume_created_at(self, name: str) -> datetime | None:
        """Return when the volume was created, which identifies it among others of its name; None if there is none."""
        with docker_errors(f"looking for the volume {name}", NoSuchVolume):
            return self._client(LOOK_DEADLINE_S).volume.inspect(name).created_at
        return None

    def volumes(self, model_id: str) -> list[str]:
        """Return the names of this model's prepared volumes."""
        labels = self._filters(f"{PREPARE_LABEL}={model_id}")
        with docker_errors("listing volumes"):
            return [volume.name for volume in self._client(LOOK_DEADLINE_S).volume.list(filters=labels)]

    def remove_volume(self, name: str) -> None:
        """Remove a volume that no container uses."""
        with docker_errors(f"removing the volume {name}", NoSuchVolume):
            self._client(LOOK_DEADLINE_S).volume.remove(name)

    @contextmanager
    def _compose_lock(self, doing: str) -> Iterator[None]:
        """Wait for the Compose commands before this one, with a bound: an engine that hangs holds them up, too."""
        if not self._compose_mutex.acquire(timeout=COMPOSE_LOCK_DEADLINE_S):
            raise DockerTimeout(f"{doing}: other Compose commands did not finish in time. Check `docker info`.")
        try:
            yield
        finally:
            self._compose_mutex.release()

    def _with_label(self, label: str) -> list[Container]:
        whales = self._client(LOOK_DEADLINE_S)
        # A container of `docker compose run` has the service's labels, too, but serves no requests.
        filters = self._filters(label, NOT_ONEOFF)
        with docker_errors("listing containers"):
            ids = [item.id for item in whales.container.list(all=True, filters=filters)]
        with docker_errors("looking at containers", NoSuchContainer):
            return [read_container(item) for item in whales.container.inspect(ids)] if ids else []
        # One of them was removed after it was listed.
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
