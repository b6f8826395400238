"""Stops all models with the controller, if a setting says so."""

from __future__ import annotations

import logging
import threading
import time

from controller.docker.container import Container
from controller.errors import OrchestrarError
from controller.supervisor.backend import Backend
from controller.supervisor.lifecycle import TERM_GRACE_S

log = logging.getLogger(__name__)


def stop_all(backend: Backend, within_s: float) -> None:
    """Stop all running models at once; returns when they have stopped, or when the time is up."""
    deadline = time.monotonic() + within_s
    stopping: list[threading.Thread] = []
    finder = threading.Thread(target=_begin, args=(backend, stopping), daemon=True)
    finder.start()
    finder.join(within_s)
    for thread in stopping:
        thread.join(max(deadline - time.monotonic(), 0))


def _begin(backend: Backend, stopping: list[threading.Thread]) -> None:
    try:
        running = [container for container in backend.find_all() if container.running]
    except OrchestrarError as exc:
        log.warning("the models go on running, since Docker did not list them: %s", exc.message)
        return
    for container in running:
        thread = threading.Thread(target=_stop, args=(backend, container), daemon=True)
        thread.start()
        stopping.append(thread)


def _stop(backend: Backend, container: Container) -> None:
    try:
        backend.stop(container.id, grace_s=TERM_GRACE_S)
    except OrchestrarError as exc:
        log.warning("%s: could not be stopped: %s", container.model_id, exc.message)
    else:
        log.info("%s: stopped with the controller", container.model_id)
