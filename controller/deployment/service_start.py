"""Brings one model's Compose service up: its files, its port, and what Docker Compose reports."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable

from controller.deployment.compose_file import ComposeFile
from controller.deployment.container_restart import ContainerRestart
from controller.deployment.images import Images
from controller.deployment.ports import PortBook
from controller.docker.container import Container
from controller.docker.service import DockerService
from controller.errors import DockerError, DockerTimeout, PortTaken, StartFailed
from controller.registry import ModelSpec
from controller.supervisor.failures.card import failure_card
from controller.system.files import writing_to

log = logging.getLogger(__name__)

PORT_TRIES = 5
_PORT_IN_USE = ("address already in use", "port is already allocated")
_NETWORK_GONE = re.compile(r"network \S+ not found")


class ServiceStart:
    """Thread-safe; blocks on Docker."""

    def __init__(
        self,
        *,
        docker: DockerService,
        images: Images,
        ports: PortBook,
        file: ComposeFile,
        write: Callable[[], None],
    ) -> None:
        """`write` brings the Compose file up to date."""
        self._docker = docker
        self._images = images
        self._ports = ports
        self._file = file
        self._write = write
        self._container_restart = ContainerRestart(docker)

    def resume(self, model_id: str) -> Container | None:
        """Start the model's exited container again as it is; None unless `up` would make the same one now."""
        self._write()
        return self._container_restart.restart(model_id)

    def up(self, spec: ModelSpec) -> Container:
        """Bring the model's service up without waiting for its server; an automatic port that is taken is replaced.

        Raises PortTaken for an explicit port, else StartFailed with Docker's message.
        """
        for _ in range(PORT_TRIES):
            self._leave_taken_port(spec)
            self._write()
            compose_text = self._docker.compose_text()
            failure = self._try_up(spec.id)
            stderr = "" if failure is None else f"{failure.details.get('stderr')}".lower()
            if any(sign in stderr for sign in _PORT_IN_USE):
                continue  # Another program took the port after our check.
            container = self._docker.model(spec.id)
            if container is not None and not container.running and _NETWORK_GONE.search(stderr):
                # The user removed our network. Compose has created it again, but keeps the container of the old one.
                self._docker.remove(container.id)
                continue
            if failure is not None and (container is None or not container.running):
                if isinstance(failure, DockerTimeout):
                    raise failure  # A slow Docker is no failure of the model.
                self._images.require(spec)
                card = failure_card("compose up", container)
                raise StartFailed(failure.message, details=card.as_details()) from failure
            if container is None:
                raise StartFailed(f"{spec.id}: its container was removed while it started; try again")
            self._container_restart.remember(container, compose_text if failure is None else None)
            return container
        raise PortTaken(f"{spec.id}: five ports in a row were taken while it started; try again")

    def _leave_taken_port(self, spec: ModelSpec) -> None:
        """Give up a port that another program uses: an automatic one is replaced, an explicit one is an error."""
        ports = self._file.ports()
        port = ports[spec.id]
        if self._ports.is_free(port):
            return
        if spec.port is not None:
            raise PortTaken(
                f"{spec.id}: port {port} is taken by another program; free it (`ss -ltnp sport = :{port}` shows which "
                "program listens), write another `port:` in models.yaml, or remove it to have one chosen",
                details={"port": port},
            )
        with writing_to(self._file.folder):
            new_port = self._ports.move(spec.id, ports.values())
        log.warning("%s: port %d is taken by another program; using %d instead", spec.id, port, new_port)

    def _try_up(self, model_id: str) -> DockerError | None:
        """Return Docker's error. It is no verdict: a command that timed out may have started the container."""
        try:
            self._docker.up(model_id)
        except DockerError as exc:
            return exc
        return None
