"""The real engine: its absence is a failure, never a skip."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import yaml

from bench.quality.measuring import PreparedModel, prepared_model
from controller.settings import ROOT, Settings
from tests.docker.docker_gate import Gate
from tests.docker.house import FAKE_IMAGE, House, docker, fake_models

Build = Callable[..., House]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Everything in this folder needs Docker; the quick tests of the whole suite come first.

    What needs a server that is built for minutes runs by `make test-llamacpp` alone.
    """
    if "llamacpp" not in config.option.markexpr:
        left_out = [item for item in items if item.get_closest_marker("llamacpp")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.docker)
    items.sort(key=lambda item: here in item.path.parents)


@pytest.fixture(scope="session")
def fake_image() -> str:
    """The scriptable fake model's image, built from the base image that `make setup` leaves."""
    build_image("fake_model", FAKE_IMAGE)
    return FAKE_IMAGE


@pytest.fixture(scope="session")
def openai_image() -> str:
    """The id of an image whose server speaks the OpenAI API alone: what a user without a registry names."""
    return build_image("fake_openai", "orchestrar-test-openai:latest")


def build_image(folder: str, tag: str) -> str:
    context = Path(__file__).parent / folder
    result = subprocess.run(
        ["docker", "build", "--quiet", "--tag", tag, str(context)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, f"the image of {folder} cannot be built: {result.stdout}{result.stderr}"
    return docker("image", "inspect", "--format", "{{.Id}}", tag)


@pytest.fixture(scope="module")
def build_house(tmp_path_factory: pytest.TempPathFactory, fake_image: str) -> Iterator[Build]:
    """Builds houses with fake models (id → keys of models.yaml); they are pulled down after the module."""
    houses: list[House] = []

    def build(
        models: Mapping[str, Mapping[str, Any]],
        *,
        start: bool = True,
        top: Mapping[str, Any] = MappingProxyType({}),
        **environ: str,
    ) -> House:
        folder = tmp_path_factory.mktemp("house")
        folder.chmod(0o755)
        house = House(folder, fake_models(folder, models, **top), environ=environ)
        houses.append(house)
        if start:
            house.start()
        return house

    yield build
    for house in houses:
        house.close()


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    """What a house takes for the engine (`DOCKER_HOST=gate.url`): it goes away, or hangs, for that house alone."""
    gate_under_test = Gate(tmp_path)
    gate_under_test.open()
    yield gate_under_test
    gate_under_test.shut()


@pytest.fixture(scope="session")
def default_model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PreparedModel]:
    """The shipped default model, prepared anew from the set-up's download."""
    config = yaml.safe_load((ROOT / "config" / "models.yaml").read_text())
    folder: Path = tmp_path_factory.mktemp("default_model")
    folder.chmod(0o755)
    house = House(folder, yaml.safe_dump({"models": {"smollm2-135m": config["models"]["smollm2-135m"]}}))
    downloads = ROOT / "data" / "sources"
    if downloads.is_dir():
        shutil.copytree(downloads, house.data_dir / "sources")
    try:
        yield prepared_model(Settings.from_environ(house.environ()), "smollm2-135m")
    finally:
        house.close()


@pytest.fixture(scope="session", autouse=True)
def nothing_left() -> Iterator[None]:
    """No test leaves a container of its own behind; another run's on the same engine are not ours to judge."""
    yield
    left = docker("ps", "-a", "--format", "{{.Names}}").split()
    assert [name for name in left if name.startswith(tuple(House.projects))] == []
