"""Images by digest from a real registry: for a missing one the error shows a command that fetches it, which works."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from controller.docker.service import DockerService
from controller.errors import Cancelled, DockerUnavailable, SourceError
from controller.settings import ROOT
from tests.docker.conftest import Build
from tests.docker.house import docker
from tests.docker.registry import Registry, serving_registry
from tests.errorshape import check_error
from tests.fakes import HANG_S

MISSING_ID = "sha256:" + "0" * 64


@pytest.fixture
def registry() -> Iterator[Registry]:
    with serving_registry() as registry:
        yield registry
        docker("image", "rm", "--force", registry.image, check=False)


@pytest.fixture
def service(tmp_path: Path) -> DockerService:
    return DockerService(project="orchestrar-test-images", compose_dir=tmp_path)


def never() -> bool:
    return False


def test_the_error_for_a_missing_image_shows_how_to_fetch_it(build_house: Build, registry: Registry) -> None:
    """The start fails with the exact commands; one of them fetches the image, and then the start gets further."""
    house = build_house(
        {
            "far": {"engine": "llamacpp", "gguf": True, "image": registry.image},
            "lost": {"engine": "llamacpp", "gguf": True, "image": MISSING_ID},
            "unbuilt": {"image": "orchestrar-test-nowhere:latest"},
        }
    )
    response = house.ask("far", "hello")
    error = check_error(response.status_code, response.json(), 503, "image_missing")
    pull, ask_us = error["details"]["commands"]
    assert f"docker pull {registry.image}" == pull
    assert f'curl -X POST {house.url}/pull -d \'{{"model_id": "far"}}\'' == ask_us
    assert pull in error["message"]
    assert ask_us in error["message"]
    for model_id, command in (("lost", "docker load"), ("unbuilt", "docker pull orchestrar-test-nowhere:latest")):
        response = house.ask(model_id, "hello")
        assert command in check_error(response.status_code, response.json(), 503, "image_missing")["message"]

    subprocess.run(shlex.split(pull), check=True, capture_output=True, timeout=60)
    response = house.ask("far", "hello")
    check_error(response.status_code, response.json(), 503, "start_failed")  # there is no program in this image


def test_a_pull_fetches_the_image(build_house: Build, registry: Registry, service: DockerService) -> None:
    """`POST /pull` fetches the image with the files, and again if it was removed; Ollama's clients see the progress."""
    house = build_house({"far": {"engine": "llamacpp", "gguf": True, "image": registry.image}})
    for _ in range(2):
        statuses = [json.loads(line) for line in house.post("/api/pull", {"model": "far"}).text.splitlines()]
        assert {"status": "fetching the image"} in statuses
        assert {"status": "success"} == statuses[-1]
        assert service.image_id(registry.image) is not None
        docker("image", "rm", "--force", registry.image)
    response = house.post("/pull", {"model_id": "far"})
    assert (200, "stopped") == (response.status_code, response.json()["state"])


def test_provisioning_fetches_the_image(build_house: Build, registry: Registry, service: DockerService) -> None:
    """`controller.provision` fetches a model's image as well, and says so."""
    house = build_house({"far": {"engine": "llamacpp", "gguf": True, "image": registry.image}}, start=False)
    result = subprocess.run(
        [sys.executable, "-m", "controller.provision", "far"],
        env=house.environ(), cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (0, "") == (result.returncode, result.stderr)
    assert "far: fetching the image" in result.stdout
    assert service.image_id(registry.image) is not None


def test_a_fetch_reports_its_layers(service: DockerService, registry: Registry) -> None:
    """The image is there afterwards, under its digest, and every layer was reported."""
    assert service.image_id(registry.image) is None
    progress: list[tuple[int, int]] = []
    service.pull(
        registry.image,
        on_layers=lambda here_count, named_count: progress.append((here_count, named_count)),
        cancelled=never,
    )
    assert ((0, 1), (1, 1)) == (progress[0], progress[-1])
    assert service.image_id(registry.image) is not None


def test_a_fetch_can_be_ended_while_docker_is_silent(service: DockerService, registry: Registry) -> None:
    """Cancelled in the middle of a layer, it ends soon, no docker process keeps running, and there is no image."""
    registry.release.clear()
    is_wanted = threading.Event()
    is_wanted.set()
    with ThreadPoolExecutor(1) as pool:
        pulling = pool.submit(
            service.pull, registry.image, on_layers=lambda *_: None, cancelled=lambda: not is_wanted.is_set()
        )
        assert registry.layer_asked.wait(HANG_S)
        is_wanted.clear()
        with pytest.raises(Cancelled):
            pulling.result(HANG_S)
    assert [] == [path for path in Path("/proc").glob("[0-9]*/cmdline") if registry.image in words(path)]
    assert service.image_id(registry.image) is None


def words(path: Path) -> str:
    try:
        return path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def test_what_the_registry_lacks_is_a_source_error(service: DockerService, registry: Registry) -> None:
    """An unknown digest and a registry that does not answer are errors of their own, not Docker's."""
    name, _, _ = registry.image.partition("@")
    for image in (f"{name}@{MISSING_ID}", f"127.0.0.1:1/tiny@{MISSING_ID}"):
        with pytest.raises(SourceError, match=f"{image} could not be fetched") as failure:
            service.pull(image, on_layers=lambda *_: None, cancelled=never)
        assert f"docker pull {image}" in failure.value.message


def test_a_missing_docker_is_reported(
    service: DockerService, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an engine the error says that Docker is unavailable."""
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent/docker.sock")
    with pytest.raises(DockerUnavailable):
        service.pull(registry.image, on_layers=lambda *_: None, cancelled=never)
