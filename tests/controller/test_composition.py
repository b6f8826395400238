"""A controller as a whole: what its start does, in which order, and what its end leaves."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from controller.composition import Controller, compose
from controller.docker.container import Container
from controller.errors import ConfigInvalid, DockerUnavailable
from controller.registry import Registry
from controller.registry.file_watch import FileWatch
from controller.settings import Settings
from controller.supervisor import State
from controller.supervisor.backend import Amount
from tests.fake_controller import QuietDocker, make_controller
from tests.fakes import FakeBackend, make_container, make_spec


class RecordingBackend(FakeBackend):
    """Notes what a start asks of it; one model runs."""

    def __init__(self) -> None:
        super().__init__()
        self.models = ["tiny"]
        self.containers = {"running": make_container(id="running")}

    def write(self) -> None:
        self.calls.append("write")

    def end_orphans(self) -> None:
        self.calls.append("end orphans")

    def room(self, used_bytes: int) -> Amount:
        self.calls.append("room")
        return super().room(used_bytes)

    def find_all(self) -> list[Container]:
        self.calls.append("find all")
        return super().find_all()


class AbsentDocker(QuietDocker):
    """An engine that does not answer."""

    def version(self) -> str:
        raise DockerUnavailable("not there")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        config_file=tmp_path / "models.yaml", data_dir=tmp_path, compose_dir=tmp_path / "compose", project="test"
    )


@pytest.fixture
def backend() -> RecordingBackend:
    return RecordingBackend()


@pytest.fixture
def controller(settings: Settings, backend: RecordingBackend) -> Iterator[Controller]:
    controller = make_controller(settings, registry=Registry(models={"tiny": make_spec()}), backend=backend)
    yield controller
    controller.close()


def test_a_start_adopts_after_it_has_written(controller: Controller, backend: RecordingBackend) -> None:
    """Nothing is asked before `start`; then leftovers go, the file is written, and what runs is adopted."""
    assert [] == backend.calls
    controller.start()
    assert ["end orphans", "write", "room", "find all"] == backend.calls[:4]
    assert State.STARTING is controller.supervisor.view("tiny").state


def test_a_start_does_not_wait_for_docker(
    settings: Settings, backend: RecordingBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While Docker is away, the file is written and the controller serves; running models are adopted later."""
    monkeypatch.setattr("tests.fake_controller.QuietDocker", AbsentDocker)
    monkeypatch.setattr("controller.supervisor.Monitor.start", lambda self: None)
    controller = make_controller(settings, registry=Registry(models={"tiny": make_spec()}), backend=backend)
    controller.start()
    assert ["write"] == backend.calls
    assert not controller.docker_health.report()["ok"]
    controller.close()


def test_the_end_ends_its_threads(controller: Controller) -> None:
    """The threads that watch files and models end with the controller."""
    before = set(threading.enumerate())
    controller.start()
    threads = set(threading.enumerate()) - before
    assert {"watch models.yaml", "hang watch", "monitor"} <= {thread.name for thread in threads}
    controller.close()
    for thread in threads:
        thread.join(5)
        assert not thread.is_alive(), thread.name


def test_parts_are_made_without_touching_anything(settings: Settings) -> None:
    """`compose` reads models.yaml and writes nothing; a wrong file is an error of it."""
    settings.config_file.write_text("models: {tiny: {source: 'file:///nowhere'}}")
    controller = compose(settings)
    assert ["tiny"] == list(controller.offered_models.models)
    assert not settings.compose_dir.exists()
    settings.config_file.write_text("models: {tiny: {sauce: 'file:///nowhere'}}")
    with pytest.raises(ConfigInvalid, match="sauce"):
        compose(settings)


def test_a_changed_chat_template_is_a_change_of_its_model(settings: Settings, backend: RecordingBackend) -> None:
    """The watch sees it like a change of models.yaml, and the entry has the new content's hash then."""
    template = settings.config_file.parent / "own.jinja"
    template.write_text("{{ messages }}")
    settings.config_file.write_text("models: {tiny: {source: 'file:///nowhere', chat_template: own.jinja}}")
    controller = make_controller(settings, backend=backend)
    before = controller.offered_models.spec("tiny").chat_template
    (watch,) = [watch for watch in controller._watches if isinstance(watch, FileWatch)]
    template.write_text("{{ messages }}, changed")
    for _ in range(2):
        watch.look()
    after = controller.offered_models.spec("tiny").chat_template
    assert before is not None
    assert after is not None
    assert before.sha256 != after.sha256
    controller.close()
