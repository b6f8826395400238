"""The real engine: if it is absent, the tests fail and are never skipped."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import yaml
from openai import OpenAI

from bench.quality.measuring import PreparedModel, prepared_model
from controller.settings import Settings
from tests.docker.docker_gate import Gate
from tests.docker.house import FAKE_IMAGE, House, docker, fake_models
from tests.docker.real_models import DEFAULT_MODEL, copy_downloads, shipped_entry

Build = Callable[..., House]
NewHouse = Callable[..., House]
NOTHING: Mapping[str, Any] = MappingProxyType({})


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark everything in this folder as needing Docker, and put it after the quick tests of the suite."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.docker)
    items.sort(key=lambda item: here in item.path.parents)


@pytest.fixture(scope="session")
def fake_image() -> str:
    """Build the scriptable fake model's image on the set-up's base image, and return its name."""
    build_image("model", FAKE_IMAGE)
    return FAKE_IMAGE


@pytest.fixture(scope="session")
def openai_image() -> str:
    """Build an image whose server knows only the OpenAI API; return its id, as a user without a registry names it."""
    return build_image("openai", "orchestrar-test-openai:latest")


def build_image(folder: str, tag: str) -> str:
    context = Path(__file__).parent / "fakes"
    command = ["docker", "build", "--quiet", "--tag", tag, "--file", str(context / folder / "Dockerfile"), str(context)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"the image of fakes/{folder} cannot be built: {result.stdout}{result.stderr}"
    return docker("image", "inspect", "--format", "{{.Id}}", tag)


@pytest.fixture(scope="module")
def new_house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NewHouse]:
    """Return a function that makes a house from the text of its models.yaml; they are removed after the module."""
    houses: list[House] = []

    def make(models_yaml: Callable[[Path], str], environ: Mapping[str, str] = NOTHING) -> House:
        folder = tmp_path_factory.mktemp("house")
        folder.chmod(0o755)
        house = House(folder, models_yaml(folder), environ=environ)
        houses.append(house)
        return house

    yield make
    for house in houses:
        house.close()


@pytest.fixture(scope="module")
def build_house(new_house: NewHouse, fake_image: str) -> Build:
    """Return a function that builds houses with fake models (id → keys of models.yaml)."""

    def build(
        models: Mapping[str, Mapping[str, Any]],
        *,
        start: bool = True,
        top: Mapping[str, Any] = NOTHING,
        **environ: str,
    ) -> House:
        house = new_house(lambda folder: fake_models(folder, models, **top), environ)
        if start:
            house.start()
        return house

    return build


@pytest.fixture(scope="module")
def build_real_house(new_house: NewHouse) -> Build:
    """Return a function that builds houses with real models (id → keys of models.yaml) and the set-up's downloads."""

    def build(models: Mapping[str, Mapping[str, Any]]) -> House:
        document = {"defaults": {"max_wait": "300s"}, "models": dict(models)}
        house = new_house(lambda _folder: yaml.safe_dump(document))
        copy_downloads(house)
        house.start()
        return house

    return build


@pytest.fixture
def client(request: pytest.FixtureRequest, house: House) -> Iterator[OpenAI]:
    """Yield the `openai` package's client for the module's house; with a real model it waits longer."""
    timeout_s = 320 if request.node.get_closest_marker("real_model") else 60
    with OpenAI(base_url=house.url + "/v1", api_key="unused", max_retries=0, timeout=timeout_s) as client:
        yield client


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    """Yield what stands for the engine in one house (`DOCKER_HOST=gate.url`) and can go away, or hang, for it."""
    gate_under_test = Gate(tmp_path)
    gate_under_test.open()
    yield gate_under_test
    gate_under_test.shut()


@pytest.fixture(scope="session")
def default_model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PreparedModel]:
    """Yield the default model as we ship it, prepared from the set-up's download."""
    folder: Path = tmp_path_factory.mktemp("default_model")
    folder.chmod(0o755)
    house = House(folder, yaml.safe_dump({"models": {DEFAULT_MODEL: shipped_entry()}}))
    copy_downloads(house)
    try:
        yield prepared_model(Settings.from_environ(house.environ()), DEFAULT_MODEL)
    finally:
        house.close()


@pytest.fixture(scope="session", autouse=True)
def nothing_left() -> Iterator[None]:
    """Check at the end that no test left a container of this run behind; other runs on the same engine do not count."""
    yield
    left = docker("ps", "-a", "--format", "{{.Names}}").split()
    assert [name for name in left if name.startswith(tuple(House.projects))] == []
