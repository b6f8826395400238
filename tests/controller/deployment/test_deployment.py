"""What becomes of Docker's answers when a model is brought up."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from controller.deployment.deployment import Deployment
from controller.docker.container import Container
from controller.errors import DockerError, DockerTimeout, StartFailed
from controller.registry import DeployedModels, Registry
from tests.fakes import make_container, make_spec


class FakeDocker:
    """Compose fails as it is told to, and a look shows what there is."""

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
    )
    deployed = DeployedModels(Registry(models={"tiny": make_spec(engine="transformers")}))
    engines = {"transformers": SimpleNamespace(loads=None)}
    parts: dict[str, Any] = dict.fromkeys(("images", "preparation", "ports", "file", "budget"), nothing)
    return Deployment(deployed=deployed, engines=cast(Any, engines), docker=cast(Any, docker), **parts)


@pytest.mark.parametrize("container", [None, make_container(status="exited")])
def test_a_docker_that_is_slow_is_no_failure_of_the_model(container: Container | None) -> None:
    """`up` that ran into its deadline and brought nothing up says so, and the model is not left alone for it."""
    with pytest.raises(DockerTimeout) as caught:
        deployment(FakeDocker(DockerTimeout("up took too long"), container)).up("tiny")
    assert not caught.value.backs_off


def test_one_that_runs_all_the_same_is_taken() -> None:
    """The command was ended, and had done its work."""
    container = make_container()
    assert container is deployment(FakeDocker(DockerTimeout("up took too long"), container)).up("tiny")


def test_what_compose_refuses_is_a_failure_of_the_start() -> None:
    """Its words are the message, and its container's state is the card."""
    with pytest.raises(StartFailed, match="no such device") as caught:
        deployment(FakeDocker(DockerError("no such device"), make_container(status="exited", exit_code=1))).up("tiny")
    assert (caught.value.backs_off, caught.value.details["exit_code"]) == (True, 1)
