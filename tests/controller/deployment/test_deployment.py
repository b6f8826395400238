"""How a model's start handles Docker's answers."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from controller.deployment.deployment import Deployment
from controller.deployment.engine_choice import Choice
from controller.docker.container import Container
from controller.errors import DockerError, DockerTimeout, PreparationFailed, StartFailed
from controller.registry import DeployedModels, ModelSpec, Registry
from controller.registry.spec import ChatTemplateFile
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


def deployment(docker: FakeDocker, spec: ModelSpec | None = None) -> Deployment:
    nothing = SimpleNamespace(
        ports=lambda: {"tiny": 9001},
        is_free=lambda port: True,
        write=lambda registry: None,
        require=lambda spec: None,
        folder=Path("/nowhere"),
        of=lambda spec: Choice(spec=spec, source=None),
    )
    models = DeployedModels(Registry(models={"tiny": spec or make_spec(engine="transformers")}))
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


def test_a_chat_template_that_fails_is_the_failure(tmp_path: Path) -> None:
    """Before a download and before a start: the file, the line and the reason; Docker is not asked."""
    path = tmp_path / "own.jinja"
    path.write_text("{% for message in messages %}\n{{ raise_exception('no user turns') }}{% endfor %}")
    spec = make_spec(engine="transformers", chat_template=ChatTemplateFile(path=path, sha256="refuses"))
    parts = deployment(FakeDocker(DockerError("not asked"), None), spec)
    for begin in (lambda: parts.up("tiny"), lambda: parts.prepare("tiny", lambda _: None, lambda: False)):
        with pytest.raises(
            PreparationFailed, match=r"its chat template own\.jinja cannot be used: line 2: no user turns"
        ):
            begin()
