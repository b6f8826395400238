"""Which image a model gets, and the error if it is missing. tests/docker/ fetches real ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

from controller.deployment.engines import Engine
from controller.deployment.images import Images
from controller.docker.service import DockerService
from controller.errors import ImageMissing
from controller.supervisor.backend import PreparationProgress
from tests.fakes import make_spec

DIGEST = "sha256:" + "ab" * 32
ENGINES = {
    "transformers": Engine(own=True, image="orchestrar-runner:latest"),
    "llamacpp": Engine(routes=["/v1/completions"], image=f"host.example/llama@{DIGEST}"),
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


def images(docker: FakeDocker) -> Images:
    return Images(docker=cast(DockerService, docker), engines=ENGINES, api_url="http://127.0.0.1:8000")


@pytest.mark.parametrize(
    ("spec", "commands"),
    [
        ({"engine": "transformers"}, ["make up"]),
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
