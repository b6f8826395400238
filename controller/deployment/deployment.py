"""The Compose project on Docker: files, ports and containers of every model, one service at a time."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Mapping
from datetime import timedelta

from controller.deployment.compose_file import ComposeFile
from controller.deployment.container_restart import Resumption
from controller.deployment.engines import Engine
from controller.deployment.images import Images
from controller.deployment.memory_budget import Budget
from controller.deployment.ports import PortBook
from controller.deployment.preparation import Preparation
from controller.deployment.rendering.render import prepare_service
from controller.docker.cgroup import working_set_bytes
from controller.docker.container import Container, Usage
from controller.docker.endings import Ending
from controller.docker.service import DockerService
from controller.errors import DockerError, DockerTimeout, ModelBusy, PortTaken, StartFailed
from controller.registry import DeployedModels, LiveRegistry, ModelSpec, Registry
from controller.supervisor.backend import Amount, ModelFacts, OnProgress
from controller.supervisor.failures.card import failure_card
from controller.system.files import writing_to

log = logging.getLogger(__name__)

LOG_LINES = 30
# Docker notes when a container started once it runs, and what fails at once has written why by then.
WRITES_BEFORE = timedelta(milliseconds=250)
PORT_TRIES = 5
_PORT_IN_USE = ("address already in use", "port is already allocated")
_NETWORK_GONE = re.compile(r"network \S+ not found")


class Deployment:
    """What the supervisor asks of the world outside. Thread-safe; every method may block on Docker."""

    def __init__(
        self,
        *,
        deployed: DeployedModels,
        engines: Mapping[str, Engine],
        docker: DockerService,
        images: Images,
        preparation: Preparation,
        ports: PortBook,
        file: ComposeFile,
        budget: Budget,
    ) -> None:
        self._deployed = deployed
        self._engines = engines
        self._docker = docker
        self._images = images
        self._preparation = preparation
        self._ports = ports
        self._file = file
        self._budget = budget
        self._resumption = Resumption(docker)
        self._compose_lock = threading.Lock()

    def write(self) -> None:
        """Bring the Compose file up to date. Raises FilesUnwritable."""
        with self._compose_lock:
            self._file.write(self._deployed.now)

    def deploy(self, registry: Registry) -> None:
        """Write the Compose file for these models and switch the deployed ones to them, in one step.

        Raises FilesUnwritable or ConfigInvalid, and then all is as it was.
        """
        with self._compose_lock:
            self._file.write(registry)
            self._deployed.now = registry

    def described(self, registry: Registry | LiveRegistry) -> dict[str, str]:
        """What the Compose file says of each model, were this the registry."""
        return self._file.described(registry)

    def outdated(self) -> set[str]:
        """The models whose templates were changed since the Compose file was written."""
        return self._file.outdated()

    def ports(self) -> dict[str, int]:
        """The host port of each model."""
        return self._file.ports()

    def is_prepared(self, model_id: str) -> bool:
        """Whether a start would find the model's files made. No Docker, no network."""
        return self._preparation.is_complete(self._spec(model_id))

    def facts(self, model_id: str) -> ModelFacts | None:
        """What is known of the model's files; None before they are here. No Docker, no network."""
        return self._preparation.describe(self._spec(model_id))

    def require_image(self, model_id: str) -> None:
        """Raise ImageMissing, with the commands that fetch it, when the model's image is not on this machine."""
        self._images.require(self._spec(model_id))

    def prepare(self, model_id: str, on_progress: OnProgress, cancelled: Callable[[], bool]) -> None:
        """Make all that a start needs: image, files, conversion.

        Raises SourceError, PreparationFailed, FilesUnwritable or a Docker error.
        """
        spec = self._spec(model_id)
        self._images.fetch(spec, on_progress=on_progress, cancelled=cancelled)
        self._preparation.download(spec, on_progress=on_progress, cancelled=cancelled)
        self.write()
        service = prepare_service(model_id)
        with writing_to(self._file.folder):
            self._preparation.convert(spec, service=service, on_progress=on_progress, cancelled=cancelled)
        self.write()

    def end_orphans(self) -> None:
        """Remove what prepares a model for nobody. Raises FilesUnwritable or a Docker error."""
        self._preparation.end_orphans()

    def find_all(self) -> list[Container]:
        """Every container of the project that serves a model."""
        return self._docker.models()

    def find(self, model_id: str) -> Container | None:
        """The model's container, running or not."""
        return self._docker.model(model_id)

    def inspect(self, container_id: str) -> Container | None:
        """The container as it is now; None when it is gone."""
        return self._docker.inspect(container_id)

    def ending(self, container_id: str) -> Ending:
        """How the container came to its end, as far as Docker told."""
        return self._docker.ending(container_id)

    def resume(self, model_id: str) -> Container | None:
        """Start the model's ended container again as it is; None unless it is what `up` would make now."""
        self.write()
        return self._resumption.resume(model_id)

    def up(self, model_id: str) -> Container:
        """Bring the model's service up, on another port where its automatic one is taken; does not wait for it.

        Raises PortTaken for an explicit port, StartFailed with Docker's words otherwise.
        """
        spec = self._spec(model_id)
        self._require_file(spec)
        for _ in range(PORT_TRIES):
            self._yield_taken_port(spec)
            self.write()
            described = self._docker.compose_text()
            failure = self._try_up(model_id)
            said = "" if failure is None else f"{failure.details.get('stderr')}".lower()
            if any(sign in said for sign in _PORT_IN_USE):
                continue  # somebody was faster than our look
            container = self._docker.model(model_id)
            if container is not None and not container.running and _NETWORK_GONE.search(said):
                # Somebody removed our network, and Compose, which has made it anew, sticks to the container of the old.
                self._docker.remove(container.id)
                continue
            if failure is not None and (container is None or not container.running):
                if isinstance(failure, DockerTimeout):
                    raise failure  # Docker's slowness is no failure of the model
                self._images.require(spec)
                card = failure_card("compose up", container)
                raise StartFailed(failure.message, details=card.as_details()) from failure
            if container is None:
                raise StartFailed(f"{model_id}: its container was removed while it started; try again")
            self._resumption.remember(container, described if failure is None else None)
            return container
        raise PortTaken(f"{model_id}: five ports in a row were taken while it started; try again")

    def stop(self, container_id: str, *, grace_s: int) -> None:
        """End the container's process by its id; verified: it has exited when this returns."""
        self._docker.stop(container_id, grace_s=grace_s)

    def logs(self, container: Container) -> list[str]:
        """Its last lines, of this run of it alone but for a moment before."""
        begun = container.started_at
        since = None if begun is None else begun - WRITES_BEFORE
        return self._docker.logs(container.id, tail=LOG_LINES, since=since)

    def usage(self, container_ids: list[str]) -> dict[str, Usage]:
        """CPU and memory per container."""
        return self._docker.usage(container_ids) if container_ids else {}

    def working_set(self, container_id: str) -> int | None:
        """The memory that it uses now, page cache that could go left out; None where the kernel does not show it."""
        return working_set_bytes(container_id)

    def room(self, used_bytes: int) -> Amount:
        """What there is for all models together, who use `used_bytes` of it now."""
        return self._budget.room(used_bytes)

    def needs(self, model_id: str, *, limit_bytes: int | None = None) -> Amount:
        """What to count for the model; `limit_bytes` is its container's limit where there is one."""
        return self._budget.needs(self._file.demand(model_id), limit_bytes=limit_bytes)

    def observe(self, model_id: str, used_bytes: int) -> None:
        """Take note of what the model uses, for the next time that it is counted."""
        self._budget.observe(self._file.demand(model_id), used_bytes)

    def drifted(self, containers: list[Container]) -> set[str]:
        """The models whose container is not what the Compose files (override included) and the images are now."""
        hashes = self._docker.config_hashes() if containers else {}
        images = {image: self._docker.image_id(image) for image in {c.image for c in containers}}
        return {
            c.model_id
            for c in containers
            if c.config_hash != hashes.get(c.service) or images[c.image] not in (None, c.image_id)
        }

    def delete_files(self, model_id: str) -> int:
        """Remove the model's ended container, prepared volumes and downloads; returns the bytes of the downloads.

        Raises ModelBusy when a container serves the model, started by hand perhaps.
        """
        container = self._docker.model(model_id)
        if container is not None and container.running:
            raise ModelBusy(f"{model_id} runs in {container.name}; stop it first (POST /stop), then delete its files")
        if container is not None:
            self._docker.remove(container.id)
        freed = self._preparation.delete(self._spec(model_id))
        self.write()
        return freed

    def _spec(self, model_id: str) -> ModelSpec:
        return self._deployed.spec(model_id)

    def _require_file(self, spec: ModelSpec) -> None:
        """Refuse a source in which the engine finds nothing to load, before its server says so in words of its own."""
        engine = self._engines[spec.engine]
        if engine.loads is None or (stored := self._preparation.stored(spec)) is None:
            return
        if engine.loaded(stored.files) is None:
            raise StartFailed(
                f"{spec.id}: the {spec.engine} engine loads one {engine.loads} file, or the parts of one; its source "
                f"holds {', '.join(stored.files[:5])}; name the file in `source:`, or choose another engine",
                details=failure_card("preparing").as_details(),
            )

    def _yield_taken_port(self, spec: ModelSpec) -> None:
        """Leave a port on which somebody else listens: an automatic one moves on, an explicit one is an error."""
        ports = self.ports()
        port = ports[spec.id]
        if self._ports.is_free(port):
            return
        if spec.port is not None:
            raise PortTaken(
                f"{spec.id}: port {port} is taken by another program; free it (`ss -ltnp sport = :{port}` shows who "
                "listens) or write another `port:` in models.yaml, or none to have one chosen",
                details={"port": port},
            )
        with writing_to(self._file.folder):
            moved = self._ports.move(spec.id, ports.values())
        log.warning("%s: port %d is taken by another program, moving on to %d", spec.id, port, moved)

    def _try_up(self, model_id: str) -> DockerError | None:
        """The error is no verdict: a command that ran into its deadline may have started the container all the same."""
        try:
            self._docker.up(model_id)
        except DockerError as exc:
            return exc
        return None
