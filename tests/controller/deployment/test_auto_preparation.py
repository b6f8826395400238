"""Preparing a model with `engine: auto`: one engine after the other, until one takes the files."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from controller.composition import compose_deployment
from controller.deployment.deployment import Deployment
from controller.docker.service import DockerService
from controller.errors import ImageMissing, ModelUnfit, PreparationFailed
from controller.registry import DeployedModels, ModelSpec, Registry
from controller.registry.file.auto_engine import auto_candidates
from controller.registry.source_ref import FileSource
from controller.settings import ROOT, Settings
from tests.controller.deployment.preparing_docker import FACTS, PreparingDocker
from tests.engines import ALL_ENGINES

UNFIT = '{"error": "rows of 576 values", "unfit": true}'
DAMAGED = '{"error": "the file is cut; download it again", "unfit": false}'


class Docker(PreparingDocker):
    """Each engine's container ends as scripted; the Compose file says which engine prepares."""

    def __init__(self, compose_file: Path) -> None:
        super().__init__()
        self.compose_file = compose_file
        self.ends: dict[str, str] = {}
        self.images = {engine.image: f"sha256:{name}" for name, engine in ALL_ENGINES.items()}
        self.engines_asked: list[str] = []

    def services(self) -> dict[str, Any]:
        """Return the services of the Compose file."""
        services: dict[str, Any] = yaml.safe_load(self.compose_file.read_text())["services"]
        return services

    def up(self, service: str) -> None:
        engine = self.services()[service]["environment"]["ORCHESTRAR_ENGINE"]
        self.engines_asked.append(engine)
        end = self.ends.get(engine, FACTS)
        self.last_lines, self.exit_code = [end], 0 if end == FACTS else 1
        super().up(service)

    def memory_bytes(self) -> int:
        return 1 << 33

    def model(self, model_id: str) -> None:
        return None

    def image_id(self, reference: str) -> str | None:
        return self.images.get(reference)


@pytest.fixture
def docker(tmp_path: Path) -> Docker:
    return Docker(tmp_path / "compose" / "compose.yaml")


def model(tmp_path: Path, **values: Any) -> ModelSpec:
    """Return a GGUF model with `engine: auto`."""
    tmp_path.chmod(0o755)
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    file.chmod(0o644)
    candidates = auto_candidates(task="chat", gpus=0, engines=ALL_ENGINES)
    return ModelSpec(id="tiny", source=FileSource(file), **{"engine": "openvino", "candidates": candidates, **values})


def deployment_of(tmp_path: Path, docker: Docker, spec: ModelSpec) -> Deployment:
    compose_dir = tmp_path / "compose"
    compose_dir.mkdir(exist_ok=True)
    settings = Settings(data_dir=tmp_path, compose_dir=compose_dir, templates_dir=ROOT / "templates", project="test")
    models = DeployedModels(Registry(models={"tiny": spec}))
    return compose_deployment(settings, models, cast(DockerService, docker), ALL_ENGINES)


def prepare(deployment: Deployment) -> None:
    deployment.prepare("tiny", lambda _: None, lambda: False)


def test_the_first_engine_that_converts_is_taken(tmp_path: Path, docker: Docker) -> None:
    """It is asked once, and its service is in the Compose file."""
    deployment = deployment_of(tmp_path, docker, model(tmp_path))
    assert not deployment.is_prepared("tiny")
    prepare(deployment)
    prepare(deployment)
    assert deployment.is_prepared("tiny")
    assert ["openvino"] == docker.engines_asked
    assert "openvino" == docker.services()["tiny"]["labels"]["orchestrar.engine"]


def test_the_next_engine_is_taken_when_the_first_refuses(
    tmp_path: Path, docker: Docker, caplog: pytest.LogCaptureFixture
) -> None:
    """llama.cpp serves the file as it is; the Compose file, the log and the entry say which engine it is, and why."""
    docker.ends["openvino"] = UNFIT
    spec = model(tmp_path)
    deployment = deployment_of(tmp_path, docker, spec)
    with caplog.at_level(logging.INFO):
        prepare(deployment)
    assert "tiny: served by llamacpp: openvino: rows of 576 values; llamacpp serves it" in caplog.messages
    service = docker.services()["tiny"]
    assert ("llamacpp", ALL_ENGINES["llamacpp"].image) == (service["labels"]["orchestrar.engine"], service["image"])
    assert "tiny..prepare" not in docker.services()
    decided = deployment.decided(spec)
    places = ALL_ENGINES["llamacpp"].max_concurrency
    assert ("llamacpp", places) == (decided.engine, decided.max_concurrency)
    assert deployment.is_prepared("tiny")


def test_a_decided_engine_gets_the_service_of_a_named_one(tmp_path: Path, docker: Docker) -> None:
    """Image, labels, limits, mounts and places are the same as if models.yaml named the engine."""
    docker.ends["openvino"] = UNFIT
    prepare(deployment_of(tmp_path, docker, model(tmp_path)))
    decided = docker.services()["tiny"]
    places = ALL_ENGINES["llamacpp"].max_concurrency
    named = model(tmp_path, engine="llamacpp", candidates=(), max_concurrency=places)
    deployment_of(tmp_path, docker, named).write()
    assert docker.services()["tiny"] == decided


def test_a_restart_asks_no_engine_again(tmp_path: Path, docker: Docker) -> None:
    """What was refused is remembered by every process; the file that was written is the same."""
    docker.ends["openvino"] = UNFIT
    spec = model(tmp_path)
    prepare(deployment_of(tmp_path, docker, spec))
    text = docker.compose_file.read_text()
    restarted = deployment_of(tmp_path, docker, spec)
    assert restarted.is_prepared("tiny")
    prepare(restarted)
    assert ["openvino"] == docker.engines_asked
    assert text == docker.compose_file.read_text()


def test_a_rebuilt_image_is_asked_again_by_a_pull(tmp_path: Path, docker: Docker) -> None:
    """A pull replaces what is outdated, and an engine's refusal is its image's."""
    docker.ends["openvino"] = UNFIT
    deployment = deployment_of(tmp_path, docker, model(tmp_path))
    prepare(deployment)
    docker.ends.clear()
    docker.images[ALL_ENGINES["openvino"].image] = "sha256:rebuilt"
    prepare(deployment)
    assert ["openvino", "openvino"] == docker.engines_asked
    assert "openvino" == docker.services()["tiny"]["labels"]["orchestrar.engine"]


def test_a_damaged_file_is_no_refusal(tmp_path: Path, docker: Docker) -> None:
    """Another engine would fail, too, or serve half a model: the sentence ends the preparation."""
    docker.ends["openvino"] = DAMAGED
    deployment = deployment_of(tmp_path, docker, model(tmp_path))
    with pytest.raises(PreparationFailed, match="the file is cut"):
        prepare(deployment)
    assert not deployment.is_prepared("tiny")
    assert ["openvino"] == docker.engines_asked


def test_when_all_refuse_the_error_has_each_sentence(tmp_path: Path, docker: Docker) -> None:
    """Each engine is asked once, and the next try asks none of them again."""
    candidates = tuple(c for c in model(tmp_path).candidates if c.engine != "llamacpp")
    docker.ends |= {"openvino": UNFIT, "transformers": '{"error": "no check for rope", "unfit": true}'}
    deployment = deployment_of(tmp_path, docker, model(tmp_path, candidates=candidates))
    for _ in range(2):
        with pytest.raises(PreparationFailed) as error_info:
            prepare(deployment)
        assert "openvino: rows of 576 values; transformers: no check for rope" in error_info.value.message
    assert ["openvino", "transformers"] == docker.engines_asked
    assert not deployment.is_prepared("tiny")


def test_a_named_engine_is_never_replaced(tmp_path: Path, docker: Docker) -> None:
    """Its refusal is the error."""
    docker.ends["openvino"] = UNFIT
    deployment = deployment_of(tmp_path, docker, model(tmp_path, candidates=()))
    with pytest.raises(ModelUnfit, match="rows of 576 values"):
        prepare(deployment)
    assert "openvino" == docker.services()["tiny"]["labels"]["orchestrar.engine"]


def test_an_image_that_is_not_here_is_named(tmp_path: Path, docker: Docker) -> None:
    """The chosen engine cannot serve without its image: the error says how to get it."""
    del docker.images[ALL_ENGINES["openvino"].image]
    with pytest.raises(ImageMissing, match="orchestrar-runner:openvino is not on this machine"):
        prepare(deployment_of(tmp_path, docker, model(tmp_path)))


def test_deleted_files_are_forgotten(tmp_path: Path, docker: Docker) -> None:
    """After a deletion the engines are asked again."""
    docker.ends["openvino"] = UNFIT
    deployment = deployment_of(tmp_path, docker, model(tmp_path))
    prepare(deployment)
    deployment.delete_files("tiny")
    assert not deployment.is_prepared("tiny")


def test_a_service_is_drifted_only_if_the_choice_changes(tmp_path: Path, docker: Docker) -> None:
    """The file that was just written is not outdated, whatever was decided on the way."""
    docker.ends["openvino"] = UNFIT
    deployment = deployment_of(tmp_path, docker, model(tmp_path))
    prepare(deployment)
    assert set() == deployment.outdated()
