"""Containers of models that are no longer in models.yaml: nothing else would stop them and free their memory."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor

from controller.docker.container import Container
from controller.docker.service import DockerService

log = logging.getLogger(__name__)

# How long a container may take to end by itself. No client has a lease on it, so none waits for its answer.
GRACE_S = 5
AT_ONCE = 8


def retire_removed_models(
    docker: DockerService, model_ids: Callable[[], Collection[str]], *, grace_s: int = GRACE_S
) -> list[str]:
    """Stop and remove, by id, the project's containers of models other than `model_ids`; return their names.

    Containers without our label, of another project, or of `docker compose run` are not touched, and volumes stay. A
    model that had leases has to be drained first. Raises a Docker error; containers removed before it stay removed.
    """
    containers = docker.models()
    # The ids are read after the containers: so they include every model that a reload has added meanwhile.
    removed_ids = {container.model_id for container in containers} - set(model_ids())
    leftovers = [container for container in containers if container.model_id in removed_ids]

    def retire(container: Container) -> str:
        if container.running:
            docker.stop(container.id, grace_s=grace_s)
        docker.remove(container.id)
        log.warning("%s: removed, because %s is no longer in models.yaml", container.name, container.model_id)
        return container.name

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(retire, leftovers))


class RemovedModels:
    """Removes their containers once, as soon as Docker can be reached. Thread-safe."""

    def __init__(self, docker: DockerService, model_ids: Callable[[], Collection[str]]) -> None:
        self._docker = docker
        self._model_ids = model_ids
        self._lock = threading.Lock()
        self._is_done = False

    def retire(self) -> None:
        """Remove them unless that was done before. Raises a Docker error; then the next call tries again."""
        with self._lock:
            if not self._is_done:
                retire_removed_models(self._docker, self._model_ids)
                self._is_done = True
