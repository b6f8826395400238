"""Starts an exited container again without Compose, if nothing that it was made of has changed since."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

from controller.docker.container import Container
from controller.docker.service import DockerService
from controller.errors import DockerError, DockerTimeout

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _LastUp:
    """A container, and the text of the Compose file with which our last `up` created or confirmed it."""

    container: Container
    compose_text: str


class ContainerRestart:
    """Remembers what the last `up` left of each model. Thread-safe; blocks on Docker."""

    def __init__(self, docker: DockerService) -> None:
        self._docker = docker
        self._last_ups: dict[str, _LastUp] = {}

    def remember(self, container: Container, compose_text: str | None) -> None:
        """Note that an `up` with this Compose file left this container; None if its file is uncertain."""
        if compose_text is None:
            self._last_ups.pop(container.model_id, None)
        else:
            self._last_ups[container.model_id] = _LastUp(container, compose_text)

    def restart(self, model_id: str) -> Container | None:
        """Start the model's exited container and return it; None in any doubt, and then `up` has to decide.

        It must be the very container that our last `up` left, of the same Compose file and of the image that its
        image's name means now.
        """
        last_up = self._last_ups.get(model_id)
        if last_up is None or last_up.compose_text != self._docker.compose_text():
            return None
        container = last_up.container
        try:
            if self._docker.state_and_image(container.id, container.image) != ("exited", container.image_id):
                return None
            self._docker.start(container.id)
        except DockerTimeout:
            raise  # Another attempt would wait as long.
        except DockerError as exc:
            # A port that is taken, a network that was removed: `up` finds out what to do, or what to report.
            log.info("%s: its container could not be restarted: %s", model_id, exc.details.get("stderr", exc.message))
            return None
        return replace(container, status="running", started_at=None)
