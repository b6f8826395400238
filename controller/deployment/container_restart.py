"""Starting an ended container again without Compose, where nothing that it was made of has changed since."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

from controller.docker.container import Container
from controller.docker.service import DockerService
from controller.errors import DockerError, DockerTimeout

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Made:
    """A container, and the Compose file of which our `up` made it or left it as it was."""

    container: Container
    described: str


class Resumption:
    """What Compose last said of each model's container. Thread-safe; blocks on Docker."""

    def __init__(self, docker: DockerService) -> None:
        self._docker = docker
        self._made: dict[str, _Made] = {}

    def remember(self, container: Container, described: str | None) -> None:
        """An `up` with the Compose file `described` has ended with this container; None: it was not the whole say."""
        if described is None:
            self._made.pop(container.model_id, None)
        else:
            self._made[container.model_id] = _Made(container, described)

    def resume(self, model_id: str) -> Container | None:
        """The model's ended container, started again; None on any doubt, and then `up` has to decide.

        It has to be the very container that our last `up` left, of the same Compose file and of what its image's name
        means now.
        """
        made = self._made.get(model_id)
        if made is None or made.described != self._docker.compose_text():
            return None
        container = made.container
        try:
            if self._docker.state_and_image(container.id, container.image) != ("exited", container.image_id):
                return None
            self._docker.start(container.id)
        except DockerTimeout:
            raise  # whoever asks again would wait as long
        except DockerError as exc:
            # A port that is taken, a network that was removed: `up` finds out what is to be done, or what to say.
            log.info(
                "%s: its container could not be started again: %s", model_id, exc.details.get("stderr", exc.message)
            )
            return None
        return replace(container, status="running", started_at=None)
