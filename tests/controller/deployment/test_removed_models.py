"""Containers of models that models.yaml no longer names."""

from __future__ import annotations

from typing import Any

import pytest

from controller.deployment.removed_models import RemovedModels, retire_removed_models
from controller.docker.container import Container
from controller.errors import DockerUnavailable
from tests.fakes import make_container


class FakeDocker:
    """The part of DockerService that the removal needs."""

    def __init__(self, *containers: Container) -> None:
        self.containers = list(containers)
        self.calls: list[str] = []
        self.away = False

    def models(self) -> list[Container]:
        if self.away:
            raise DockerUnavailable("not there")
        return self.containers

    def stop(self, container_id: str, *, grace_s: int) -> None:
        self.calls.append(f"stop {container_id} {grace_s}")

    def remove(self, container_id: str) -> None:
        self.calls.append(f"remove {container_id}")


def test_only_removed_models_lose_their_containers() -> None:
    """A model in models.yaml keeps its container; that of another one is stopped if it runs, and removed by id."""
    docker: Any = FakeDocker(
        make_container("kept", id="k"),
        make_container("renamed", id="r"),
        make_container("removed", id="x", status="exited"),
    )
    names = retire_removed_models(docker, lambda: {"kept"}, grace_s=7)
    assert sorted(names) == ["test-removed-1", "test-renamed-1"]
    assert sorted(docker.calls) == ["remove r", "remove x", "stop r 7"]
    assert docker.calls.index("stop r 7") < docker.calls.index("remove r")


def test_the_removal_is_tried_again_when_docker_is_back() -> None:
    """If Docker is unavailable the next call does it, once."""
    docker: Any = FakeDocker(make_container("gone", id="g", status="exited"))
    docker.away = True
    removed_models = RemovedModels(docker, lambda: {"kept"})
    with pytest.raises(DockerUnavailable):
        removed_models.retire()
    assert docker.calls == []
    docker.away = False
    removed_models.retire()
    removed_models.retire()
    assert docker.calls == ["remove g"]
