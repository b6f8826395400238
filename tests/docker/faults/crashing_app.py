"""The controller, killed with -9 (with gunicorn's master) at the point in ORCHESTRAR_TEST_CRASH, if that file exists.

`ORCHESTRAR_TEST_CRASH=POINT:FILE`; the points are the keys of `POINTS`.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from controller.app import create_app
from controller.deployment import compose_file
from controller.deployment.conversion import Conversion
from controller.docker.service import DockerService
from controller.proxy.runner_client import RunnerClient

__all__ = ["create_app"]

POINT, _, TRIGGER = os.environ["ORCHESTRAR_TEST_CRASH"].partition(":")


def die() -> None:
    os.killpg(os.getpgrp(), signal.SIGKILL)


def dying(call: Callable[..., Any], *, before: bool = False, when: Callable[..., bool] | None = None) -> Any:
    """Wrap the call so that the controller dies after or before it; `when` decides by its result and arguments."""

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        is_armed = Path(TRIGGER).exists()
        if is_armed and before:
            die()
        result = call(*args, **kwargs)
        if is_armed and (when is None or when(result, *args)):
            die()
        return result

    return wrapped


def only_create(service: DockerService, model_id: str) -> None:
    """Do what `up` does before the container starts."""
    service._client(30).compose.create([model_id], no_build=True)


POINTS: dict[str, Callable[[], None]] = {
    "rendered": lambda: setattr(compose_file, "render", dying(vars(compose_file)["render"])),
    "half written": lambda: setattr(os, "fsync", dying(os.fsync, before=True)),
    "renamed": lambda: setattr(
        os, "replace", dying(os.replace, when=lambda _, __, path: str(path).endswith("/compose.yaml"))
    ),
    "created": lambda: setattr(DockerService, "up", dying(only_create)),
    "started": lambda: setattr(DockerService, "up", dying(DockerService.up)),
    "resumed": lambda: setattr(DockerService, "start", dying(DockerService.start)),
    "ready": lambda: setattr(
        RunnerClient, "probe", dying(RunnerClient.probe, when=lambda readiness, *_: readiness.ready)
    ),
    "preparing": lambda: setattr(Conversion, "_wait", dying(vars(Conversion)["_wait"], before=True)),
    "stopping": lambda: setattr(DockerService, "stop", dying(DockerService.stop, before=True)),
    "stopped": lambda: setattr(DockerService, "stop", dying(DockerService.stop)),
}
POINTS[POINT]()
