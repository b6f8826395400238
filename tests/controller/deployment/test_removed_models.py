"""Containers of models that models.yaml no longer names."""

from __future__ import annotations

from typing import Any

import pytest

from controller.deployment.removed_models import RemovedModels, retire_removed_models
from controller.docker.container import Container
from controller.errors import DockerUnavailable
from tests.fakes import make_container


class FakeDocker:
    """The part of DockerService that retiring needs."""

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


def test_only_the_unknown_go() -> None:
    """A model that is known keeps its containers; one that is not is stopped where it runs, and removed by id."""
    docker: Any = FakeDocker(
        make_container("kept", id="k"),
        make_container("renamed", id="r"),
        make_container("removed", id="x", status="exited"),
    )
    names = retire_removed_models(docker, lambda: {"kept"}, grace_s=7)
    assert sorted(names) == ["test-removed-1", "test-renamed-1"]
    assert sorted(docker.calls) == ["remove r", "remove x", "stop r 7"]
    assert docker.calls.index("stop r 7") < docker.calls.index("remove r")


def test_a_docker_that_is_away_is_asked_again() -> None:
    """What was in vain while Docker was away is done by the next call, once."""
    docker: Any = FakeDocker(make_container("gone", id="g", status="exited"))
    docker.away = True
    leftovers = RemovedModels(docker, lambda: {"kept"})
    with pytest.raises(DockerUnavailable):
        leftovers.retire()
    assert docker.calls == []
    docker.away = False
    leftovers.retire()
    leftovers.retire()
    assert docker.calls == ["remove g"]
