"""The Compose file and the deployed models change together, or not at all."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from controller.composition import compose_deployment
from controller.deployment.deployment import Deployment
from controller.deployment.engine_templates import read_engines
from controller.docker.service import DockerService
from controller.errors import ConfigInvalid, FilesUnwritable, ModelNotFound
from controller.registry import DeployedModels, Registry
from controller.registry.source_ref import FileSource
from controller.settings import ROOT, Settings
from controller.supervisor.backend import Amount
from tests.fakes import make_spec

BEFORE = Registry(models={"a": make_spec("a")})
AFTER = Registry(models={"b": make_spec("b")})


class World:
    """A deployment of one model that has no container."""

    def __init__(self, folder: Path) -> None:
        self.templates = Path(shutil.copytree(ROOT / "templates", folder / "templates"))
        self.settings = Settings(
            data_dir=folder / "data",
            compose_dir=folder / "compose",
            templates_dir=self.templates,
            project="test",
        )
        self.registry = DeployedModels(BEFORE)
        self.deployment: Deployment = compose_deployment(
            self.settings,
            self.registry,
            DockerService(project="test", compose_dir=self.settings.compose_dir),
            read_engines(self.settings.templates_dir),
        )
        self.deployment.write()

    @property
    def text(self) -> str:
        return (self.settings.compose_dir / "compose.yaml").read_text()


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_both_change_together(world: World) -> None:
    before = world.text
    world.deployment.deploy(AFTER)
    assert AFTER is world.registry.now
    assert world.text != before
    assert ["b"] == list(world.deployment.ports())


def test_models_are_not_deployed_if_the_file_cannot_be_written(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    before = world.text

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("controller.deployment.compose_file.write_atomic", full_disk)
    with pytest.raises(FilesUnwritable):
        world.deployment.deploy(AFTER)
    assert BEFORE is world.registry.now
    assert world.text == before


def test_a_model_that_was_removed_meanwhile_is_not_found(world: World) -> None:
    """Every question about a model that a reload has removed is answered by ModelNotFound."""
    for ask in (world.deployment.needs, world.deployment.facts, world.deployment.is_prepared):
        with pytest.raises(ModelNotFound, match="b was removed"):
            ask("b")


def test_a_changed_template_makes_models_outdated_until_the_next_write(world: World) -> None:
    """Only models whose service text changes count, not one that is prepared meanwhile."""
    assert world.deployment.outdated() == set()
    template = world.templates / "serving.yaml.j2"
    template.write_text(template.read_text() + '    hostname: "other"\n')
    assert world.deployment.outdated() == {"a"}
    world.deployment.write()
    assert world.deployment.outdated() == set()


def test_a_broken_template_is_named(world: World) -> None:
    template = world.templates / "compose.yaml.j2"
    template.write_text("{% for %}")
    with pytest.raises(ConfigInvalid, match=r"compose\.yaml\.j2:1: "):
        world.deployment.deploy(AFTER)
    assert BEFORE is world.registry.now


def test_a_measurement_counts_for_the_same_service(world: World) -> None:
    """An alias or an idle timeout makes no different container; an environment variable or a changed template does."""

    def needs(**values: Any) -> Amount:
        world.deployment.deploy(Registry(models={"a": make_spec("a", **values)}))
        return world.deployment.needs("a")

    limit = needs()
    world.deployment.observe("a", 1 << 20)
    measurement = needs()
    assert measurement.memory_bytes < limit.memory_bytes
    assert measurement == needs(aliases=("b",), idle_timeout_s=5.0)
    assert limit == needs(env={"X": "1"})
    assert measurement == needs()
    template = world.templates / "hardened.yaml.j2"
    template.write_text(template.read_text() + "\n    x-more: 1\n")
    assert limit == needs()


@pytest.mark.parametrize(("engine", "place"), [("llamacpp", "/model"), ("openvino", "/source")])
def test_a_split_model_is_mounted_by_its_parts(world: World, tmp_path: Path, engine: str, place: str) -> None:
    """The container gets the parts, and no other file of their folder; llama.cpp loads the first."""
    parts = ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"]
    for name in [*parts, "other.gguf"]:
        (tmp_path / name).write_bytes(b"x")
        (tmp_path / name).chmod(0o644)
    spec = replace(make_spec("a", engine=engine), source=FileSource(tmp_path / parts[1]))
    world.deployment.deploy(Registry(models={"a": spec}))
    services = yaml.safe_load(world.text)["services"]
    service = services["a" if engine == "llamacpp" else "a..prepare"]
    binds = {mount["source"]: mount["target"] for mount in service["volumes"] if mount["type"] == "bind"}
    assert {f"{tmp_path}/{part}": f"{place}/{part}" for part in parts} == binds
    if engine == "llamacpp":
        assert f"/model/{parts[0]}" in service["command"]
