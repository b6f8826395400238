"""A changed models.yaml is followed: what changed and nothing else, and a broken one not at all."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import pytest

from controller.errors import ConfigInvalid, DockerUnavailable, FilesUnwritable, ModelNotFound
from controller.registry import ModelSpec, OfferedModels, Registry
from controller.registry.file_watch import FileWatch, stamp_of
from controller.registry.reload import Changes, Reloader
from tests.fakes import make_spec


class World:
    """A reloader, the file that it reads, and a record of what it had done."""

    def __init__(self) -> None:
        self.file: Registry | ConfigInvalid = registry("a", "b", "c")
        self.offered = OfferedModels(registry("a", "b", "c"))
        self.taken = registry("a", "b", "c")
        self.done: list[str] = []
        self.failure: DockerUnavailable | None = None
        self.write_failure: FilesUnwritable | None = None
        self.drifted_ids, self.outdated_ids = set[str](), set[str]()
        self.reloader = Reloader(
            self.read,
            offered=self.offered,
            models=self,
            files=self,
            remove_leftovers=lambda known: self.done.append(f"only {' '.join(known)}"),
            take_templates=lambda: self.done.append("templates"),
        )

    def read(self) -> Registry:
        if isinstance(self.file, ConfigInvalid):
            raise self.file
        return self.file

    def drop(self, model_ids: Collection[str], /) -> None:
        if self.failure is not None and model_ids:
            raise self.failure
        for model_id in model_ids:
            with pytest.raises(ModelNotFound):
                self.offered.resolve(model_id)
            assert model_id in self.taken.models
        self.done.append(f"drop {' '.join(model_ids)}")

    def change(self, models: Mapping[str, ModelSpec], /, *, remade: Collection[str]) -> None:
        assert self.taken.models == models
        self.done.append(f"change {' '.join(models)}, remake {' '.join(remade)}")

    def reopen(self) -> None:
        self.done.append("reopen")

    def drifted(self) -> set[str]:
        if self.failure is not None:
            raise self.failure
        return self.drifted_ids

    def outdated(self) -> set[str]:
        return self.outdated_ids

    def described(self, registry: Registry, /) -> dict[str, str]:
        return {spec.id: f"{spec.port} {spec.env}" for spec in registry.models.values()}

    def ports(self) -> dict[str, int]:
        return {spec.id: spec.port or 8001 + number for number, spec in enumerate(self.taken.models.values())}

    def deploy(self, registry: Registry, /) -> None:
        if self.write_failure is not None:
            raise self.write_failure
        self.taken = registry


def registry(*ids: str, **changed: ModelSpec) -> Registry:
    specs = {model_id: changed.get(model_id) or make_spec(model_id) for model_id in ids}
    return Registry(models=specs)


@pytest.fixture
def world() -> World:
    return World()


class TestReload:
    def test_each_model_is_treated_as_it_changed(self, world: World) -> None:
        """A new one is there at once. A removed one is no longer offered, ends, and goes before the Compose file does
        without it; of the rest only those whose service changed are made anew."""
        world.file = registry("b", "c", "d", b=make_spec("b", env={"X": "1"}), c=make_spec("c", idle_timeout_s=5.0))
        expected = Changes(added=("d",), removed=("a",), remade=("b",), adjusted=("c",))
        assert world.reloader.reload(dry_run=True) == expected
        assert world.done == []
        assert world.reloader.reload() == expected
        assert world.done == [
            "templates",
            "change a b c d, remake ",
            "drop a",
            "only b c d",
            "change b c d, remake b",
        ]
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
            world.reloader.reload(cures_drift=False)
        assert world.offered.resolve("a").id == "a"
        assert "reopen" in world.done
        world.failure = None
        assert world.reloader.reload().removed == ("a",)

    def test_what_cannot_be_written_is_not_in_force(self, world: World) -> None:
        """Requests, models and the Compose file go on together by the old one, and another try finds the same to do."""
        world.file = registry("b", "c", "d", b=make_spec("b", env={"X": "1"}))
        world.write_failure = FilesUnwritable("the disk is full")
        with pytest.raises(FilesUnwritable):
            world.reloader.reload()
        assert world.done == ["templates"]
        assert list(world.offered.models) == ["a", "b", "c"]
        world.write_failure = None
        assert world.reloader.reload() == Changes(added=("d",), removed=("a",), remade=("b",), unchanged=("c",))

    def test_a_new_model_takes_over_a_port_when_it_is_free(self, world: World) -> None:
        """A renamed model keeps its `port:`; until the old one has left it, the new one serves on another."""
        world.file = registry("a", "b", "d", d=make_spec("d", port=8003))
        assert world.reloader.reload().added == ("d",)
        assert world.done[1] == "change a b c d, remake "
        assert world.done[-1] == "change a b d, remake d"
        assert world.taken.models["d"].port == 8003

    def test_an_automatic_port_that_is_written_down_is_left(self, world: World) -> None:
        """Its model gets another one, and is made anew so that the port is free for the one that names it."""
        world.file = registry("a", "b", "c", a=make_spec("a", port=world.ports()["b"]))
        assert {"a", "b"} == set(world.reloader.reload().remade)

    def test_drift_is_cured_by_whoever_asks_for_a_reload(self, world: World) -> None:
        """Another image or template makes a running model anew then, and never because the file was looked at."""
        world.drifted_ids, world.outdated_ids = {"b"}, {"c"}
        world.reloader.follow()
        assert world.done[-1] == "change a b c, remake "
        assert world.reloader.reload(dry_run=True).remade == ("b", "c")
        assert world.reloader.reload().remade == ("b", "c")
        assert world.done[-1] == "change a b c, remake b c"


class TestFollowing:
    def test_what_needs_no_docker_is_followed_without(self, world: World) -> None:
        """A model that is new, or whose container stays, is none of Docker's business."""
        world.file = registry("a", "b", "c", "d", b=make_spec("b", idle_timeout_s=5.0))
        world.failure = DockerUnavailable("away")
        world.reloader.follow()
        assert world.reloader.problems == ()
        assert list(world.offered.models) == ["a", "b", "c", "d"]
        assert not any(done.startswith("only") for done in world.done)

    @pytest.mark.parametrize("what", ["failure", "write_failure", "file"])
    def test_every_failure_is_shown_until_it_is_over(self, world: World, what: str) -> None:
        """Whatever keeps the file from being in force, `/health` has it."""
        right = registry("b", "c")
        world.file = right
        errors = {
            "failure": DockerUnavailable("Docker is away"),
            "write_failure": FilesUnwritable("the disk is full"),
            "file": ConfigInvalid(["models.yaml:3: bad"]),
        }
        setattr(world, what, errors[what])
        world.reloader.follow()
        (problem,) = world.reloader.problems
        assert errors[what].message in problem
        setattr(world, what, right if what == "file" else None)
        world.reloader.follow()
        assert world.reloader.problems == ()
        assert list(world.offered.models) == ["b", "c"]


class TestFileWatch:
    def test_a_change_is_told_once_it_rests(self, tmp_path: Path) -> None:
        """Not while the file is being written or replaced, and once for each change; that it is gone is one, too."""
        told: list[str] = []
        path = tmp_path / "models.yaml"
        path.write_text("one")
        watch = FileWatch(path, stamp_of(path), lambda: told.append(path.read_text() if path.exists() else "gone"))
        watch.look()
        for text in ("half", "half and more", "whole file"):
            path.write_text(text)
            watch.look()
        assert told == []
        watch.look()
        watch.look()
        assert told == ["whole file"]
        path.unlink()
        watch.look()
        path.write_text("replaced")
        for _ in range(3):
            watch.look()
        assert told == ["whole file", "replaced"]
        path.unlink()
        for _ in range(3):
            watch.look()
        path.write_text("it is back")
        watch.look()
        watch.look()
        assert told == ["whole file", "replaced", "gone", "it is back"]

    def test_a_change_before_the_watch_began_is_told(self, tmp_path: Path) -> None:
        """What counts is what the file was when it was last read."""
        told: list[str] = []
        path = tmp_path / "models.yaml"
        path.write_text("as it was read")
        read = stamp_of(path)
        path.write_text("changed during the start")
        watch = FileWatch(path, read, lambda: told.append(path.read_text()))
        watch.look()
        watch.look()
        assert told == ["changed during the start"]

    def test_a_change_that_could_not_be_followed_is_told_again(self, tmp_path: Path) -> None:
        """Every ten looks, until it could."""
        pending, told = [True], list[str]()
        watch = FileWatch(tmp_path, stamp_of(tmp_path), lambda: told.append("again"), lambda: pending[0])
        for _ in range(20):
            watch.look()
        assert told == ["again", "again"]
        pending[0] = False
        for _ in range(20):
            watch.look()
        assert told == ["again", "again"]
