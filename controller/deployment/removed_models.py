"""Containers of models that are no longer in models.yaml: nobody would stop them, and their memory is missed."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor

from controller.docker.container import Container
from controller.docker.service import DockerService

log = logging.getLogger(__name__)

# How long one has to end by itself; nobody was given a lease on it, so what it still does is for nobody of ours.
GRACE_S = 5
AT_ONCE = 8


def retire_removed_models(
    docker: DockerService, known: Callable[[], Collection[str]], *, grace_s: int = GRACE_S
) -> list[str]:
    """Stop and remove, by id, the project's containers of models that are not `known`; returns their names.

    Nothing without our label, of another project, or of `docker compose run` is touched, and volumes stay. Drain a
    model first that had leases. Raises a Docker error; what was done until then is done.
    """
    found = docker.models()
    # Asked after the look: what a reload has added meanwhile is known by now.
    gone = {container.model_id for container in found} - set(known())
    left = [container for container in found if container.model_id in gone]

    def retire(container: Container) -> str:
        if container.running:
            docker.stop(container.id, grace_s=grace_s)
        docker.remove(container.id)
        log.warning("%s: removed, for %s is no longer in models.yaml", container.name, container.model_id)
        return container.name

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(retire, left))


class RemovedModels:
    """Retires them once, as soon as Docker can be reached. Thread-safe."""

    def __init__(self, docker: DockerService, known: Callable[[], Collection[str]]) -> None:
        self._docker = docker
        self._known = known
        self._lock = threading.Lock()
        self._done = False

    def retire(self) -> None:
        """Do it unless it was done. Raises a Docker error; then it is for the next call to do."""
        with self._lock:
            if not self._done:
                retire_removed_models(self._docker, self._known)
                self._done = True
