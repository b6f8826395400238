"""How a model's start handles Docker's answers."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from controller.deployment.deployment import Deployment
from controller.deployment.engine_choice import Choice
from controller.docker.container import Container
from controller.errors import DockerError, DockerTimeout, StartFailed
from controller.registry import DeployedModels, Registry
from tests.fakes import make_container, make_spec


class FakeDocker:
    """Compose fails with a scripted error, and a look shows the scripted container."""

    def __init__(self, failure: DockerError, container: Container | None) -> None:
        self.failure = failure
        self.container = container

    def compose_text(self) -> str | None:
        return None

    def up(self, service: str) -> None:
        raise self.failure

    def model(self, model_id: str) -> Container | None:
        return self.container


def deployment(docker: FakeDocker) -> Deployment:
    nothing = SimpleNamespace(
        ports=lambda: {"tiny": 9001},
        is_free=lambda port: True,
        write=lambda registry: None,
        require=lambda spec: None,
        folder=Path("/nowhere"),
        of=lambda spec: Choice(spec=spec, source=None),
    )
    models = DeployedModels(Registry(models={"tiny": make_spec(engine="transformers")}))
    names = ("images", "preparation", "choices", "ports", "file", "memory_budget")
    parts: dict[str, Any] = dict.fromkeys(names, nothing)
    return Deployment(deployed_models=models, docker=cast(Any, docker), **parts)


@pytest.mark.parametrize("container", [None, make_container(status="exited")])
def test_a_docker_that_is_slow_is_no_failure_of_the_model(container: Container | None) -> None:
    """An `up` that timed out and started nothing is reported as such, and the next start needs no waiting time."""
    with pytest.raises(DockerTimeout) as error_info:
        deployment(FakeDocker(DockerTimeout("up took too long"), container)).up("tiny")
    assert not error_info.value.backs_off


def test_a_container_that_runs_despite_the_timeout_is_returned() -> None:
    """The command was ended after it had done its work."""
    container = make_container()
    assert container is deployment(FakeDocker(DockerTimeout("up took too long"), container)).up("tiny")


def test_what_compose_refuses_is_a_failure_of_the_start() -> None:
    """The error has Compose's message, and the card has the container's state."""
    with pytest.raises(StartFailed, match="no such device") as error_info:
        deployment(FakeDocker(DockerError("no such device"), make_container(status="exited", exit_code=1))).up("tiny")
    assert (error_info.value.backs_off, error_info.value.details["exit_code"]) == (True, 1)
