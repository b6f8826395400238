"""Which image a model gets, and the error if it is missing. tests/docker/ fetches real ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

from controller.deployment.engines import Build, Engine
from controller.deployment.images import Builder, Images
from controller.docker.service import DockerService
from controller.errors import ImageMissing
from controller.supervisor.backend import OnProgress, PreparationProgress
from tests.fakes import make_spec

DIGEST = "sha256:" + "ab" * 32
ENGINES = {
    "transformers": Engine(own=True, image="orchestrar-runner:latest"),
    "llamacpp": Engine(routes=["/v1/completions"], image=f"host.example/llama@{DIGEST}"),
    "runner": Engine(own=True, image="runner:1", build=Build()),
    "server": Engine(routes=["/v1/completions"], image="server:1", build=Build(compiler=True)),
}


class FakeDocker:
    """Has these images, and pulls any other."""

    def __init__(self, *here: str) -> None:
        self.here = set(here)
        self.pulls: list[str] = []

    def image_id(self, reference: str) -> str | None:
        return "some id" if reference in self.here else None

    def pull(self, reference: str, *, on_layers: Callable[[int, int], None], cancelled: Callable[[], bool]) -> None:
        on_layers(1, 2)
        self.pulls.append(reference)


class FakeBuilder:
    """Notes what it builds."""

    def __init__(self) -> None:
        self.builds: list[str] = []

    def run(self, engine: str, *, on_progress: OnProgress, cancelled: Callable[[], bool]) -> None:
        on_progress(PreparationProgress(phase="building", fraction=0.5))
        self.builds.append(engine)


def images(docker: FakeDocker, builder: Builder | None = None) -> Images:
    url = "http://127.0.0.1:8000"
    return Images(docker=cast(DockerService, docker), engines=ENGINES, api_url=url, builder=builder)


@pytest.mark.parametrize(
    ("spec", "commands"),
    [
        ({"engine": "runner"}, ["python3 -m scripts.setup engine-image runner"]),
        ({"engine": "server"}, ["python3 -m scripts.setup engine-image server"]),
        ({"engine": "server", "image": "mine:1"}, ["docker pull mine:1"]),
        ({"engine": "transformers", "image": "mine:1"}, ["docker pull mine:1"]),
        ({"engine": "llamacpp", "image": DIGEST}, ["docker load --input FILE"]),
        (
            {"engine": "llamacpp"},
            [
                f"docker pull host.example/llama@{DIGEST}",
                'curl -X POST http://127.0.0.1:8000/pull -d \'{"model_id": "tiny"}\'',
            ],
        ),
    ],
)
def test_a_missing_image_comes_with_the_commands_that_fetch_it(spec: dict[str, Any], commands: list[str]) -> None:
    """In the sentence, for people, and in `details`, for programs; an image that is here passes."""
    with pytest.raises(ImageMissing) as error_info:
        images(FakeDocker()).require(make_spec(**spec))
    assert commands == error_info.value.details["commands"]
    assert all(f"`{command}`" in error_info.value.message for command in commands)
    images(FakeDocker(error_info.value.details["image"])).require(make_spec(**spec))


def test_only_what_is_missing_and_has_a_digest_is_fetched() -> None:
    """Our own images are built, those by id are loaded by hand; a fetch reports its progress."""
    reports: list[PreparationProgress] = []

    def fetch(docker: FakeDocker, **spec: Any) -> list[str]:
        images(docker).fetch(make_spec(**spec), on_progress=reports.append, cancelled=lambda: False)
        return docker.pulls

    image = f"host.example/llama@{DIGEST}"
    assert [] == fetch(FakeDocker(), engine="transformers")
    assert [] == fetch(FakeDocker(), engine="transformers", image="mine:1")
    assert [] == fetch(FakeDocker(), engine="llamacpp", image=DIGEST)
    assert [] == fetch(FakeDocker(image), engine="llamacpp")
    assert [] == reports
    assert [image] == fetch(FakeDocker(), engine="llamacpp")
    assert [("fetching the image", None), ("fetching the image", 0.5)] == [(p.phase, p.fraction) for p in reports]


def test_what_is_missing_and_of_this_checkout_is_built() -> None:
    """Once, with its progress, by a process that builds; another image that a model names is never built."""
    reports: list[PreparationProgress] = []

    def fetch(docker: FakeDocker, **spec: Any) -> list[str]:
        builder = FakeBuilder()
        images(docker, builder).fetch(make_spec(**spec), on_progress=reports.append, cancelled=lambda: False)
        assert [] == docker.pulls
        return builder.builds

    assert [] == fetch(FakeDocker(), engine="server", image="mine:1")
    assert [] == fetch(FakeDocker(), engine="transformers")
    assert [] == fetch(FakeDocker("server:1"), engine="server")
    assert [] == reports
    assert ["server"] == fetch(FakeDocker(), engine="server")
    assert ["runner"] == fetch(FakeDocker(), engine="runner")
    assert [("building", 0.5)] * 2 == [(p.phase, p.fraction) for p in reports]


def test_a_process_that_builds_nothing_leaves_servers_to_the_controller() -> None:
    """`provision` fetches no image of a server of this checkout and needs none; our runner's it needs for its work."""
    quiet = images(FakeDocker())
    quiet.fetch(make_spec(engine="server"), on_progress=lambda _: None, cancelled=lambda: False)
    assert [True, False] == [quiet.is_coming(make_spec(engine=engine)) for engine in ("server", "runner")]
    building = images(FakeDocker(), FakeBuilder())
    assert [True, True] == [building.is_coming(make_spec(engine=engine)) for engine in ("server", "runner")]
    assert not building.is_coming(make_spec(engine="server", image="mine:1"))
    with pytest.raises(ImageMissing) as error_info:
        building.require(make_spec(engine="server"))
    assert error_info.value.is_built_here
