"""A changed models.yaml is followed: what changed and nothing else, and a broken one not at all."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import pytest

from controller.errors import ConfigInvalid, DockerUnavailable, ModelNotFound
from controller.registry import LiveRegistry, ModelSpec, Registry
from controller.reloading import Changes, Reloader
from controller.watch_file import FileWatch
from tests.fakes import FakeBackend, make_spec


class World:
    """A reloader, the file that it reads, and a record of what it had done."""

    def __init__(self) -> None:
        self.file: Registry | ConfigInvalid = registry("a", "b", "c")
        self.offered, self.deployed = LiveRegistry(registry("a", "b", "c")), LiveRegistry(registry("a", "b", "c"))
        self.done: list[str] = []
        self.failure: DockerUnavailable | None = None
        self.reloader = Reloader(
            self.read,
            offered=self.offered,
            deployed=self.deployed,
            models=self,
            files=FakeBackend(),
            remove_leftovers=lambda known: self.done.append(f"only {' '.join(known)}"),
        )

    def read(self) -> Registry:
        if isinstance(self.file, ConfigInvalid):
            raise self.file
        return self.file

    def drop(self, model_ids: Collection[str], /) -> None:
        if self.failure is not None:
            raise self.failure
        for model_id in model_ids:
            with pytest.raises(ModelNotFound):
                self.offered.resolve(model_id)
            assert model_id in self.deployed.models
        self.done.append(f"drop {' '.join(model_ids)}")

    def change(self, models: Mapping[str, ModelSpec], /, *, remade: Collection[str]) -> None:
        assert self.deployed.models == models
        self.done.append(f"remake {' '.join(remade)}")


def registry(*ids: str, **changed: ModelSpec) -> Registry:
    specs = {model_id: changed.get(model_id) or make_spec(model_id) for model_id in ids}
    return Registry(models=specs)


@pytest.fixture
def world() -> World:
    return World()


class TestReload:
    def test_each_model_is_treated_as_it_changed(self, world: World) -> None:
        """A removed one is no longer offered, ends, and goes before the Compose file does without it; of the rest only
        those whose service changed are made anew."""
        world.file = registry("b", "c", "d", b=make_spec("b", env={"X": "1"}), c=make_spec("c", idle_timeout_s=5.0))
        expected = Changes(added=("d",), removed=("a",), remade=("b",), adjusted=("c",))
        assert world.reloader.reload(dry_run=True) == expected
        assert world.done == []
        assert world.reloader.reload() == expected
        assert world.done == ["drop a", "only b c d", "remake b"]
        assert list(world.offered.models) == ["b", "c", "d"]

    def test_a_broken_file_changes_nothing(self, world: World) -> None:
        """The old one stays in force and the mistakes are kept to be shown, until the file is right again."""
        world.file = ConfigInvalid(["models.yaml:3: bad"])
        with pytest.raises(ConfigInvalid):
            world.reloader.reload()
        assert world.done == []
        assert list(world.reloader.problems) == ["models.yaml:3: bad"]
        world.file = registry("a", "b", "c")
        assert world.reloader.reload() == Changes(unchanged=("a", "b", "c"))
        assert world.reloader.problems == ()

    def test_a_dry_run_leaves_no_mark(self, world: World) -> None:
        world.file = ConfigInvalid(["bad"])
        with pytest.raises(ConfigInvalid):
            world.reloader.reload(dry_run=True)
        assert world.reloader.problems == ()

    def test_a_model_that_cannot_be_stopped_stays(self, world: World) -> None:
        """With Docker away the old registry stays in force as a whole, and another try finishes it."""
        world.file = registry("b", "c")
        world.failure = DockerUnavailable("away")
        with pytest.raises(DockerUnavailable):
            world.reloader.reload()
        assert world.offered.resolve("a").id == "a"
        world.failure = None
        assert world.reloader.reload().removed == ("a",)


class TestFileWatch:
    def test_a_change_is_told_once_it_rests(self, tmp_path: Path) -> None:
        """Not while the file is being written, not while it is gone, and once for each change."""
        told: list[str] = []
        path = tmp_path / "models.yaml"
        path.write_text("one")
        watch = FileWatch(path, lambda: told.append(path.read_text()))
        watch.look()
        for text in ("half", "half and more", "whole file"):
            path.write_text(text)
            watch.look()
        assert told == []
        watch.look()
        watch.look()
        assert told == ["whole file"]
        path.unlink()
        for _ in range(3):
            watch.look()
        path.write_text("it is back")
        watch.look()
        watch.look()
        assert told == ["whole file", "it is back"]
