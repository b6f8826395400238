"""Reloads of models.yaml: they apply what has changed and nothing else, and a broken file changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import pytest

from controller.errors import ConfigInvalid, DockerUnavailable, FilesUnwritable, ModelNotFound
from controller.registry import ModelSpec, OfferedModels, Registry
from controller.registry.file_watch import FileWatch, Stamp, stamp_of
from controller.registry.reload import Changes, Reloader
from tests.fakes import make_spec


class World:
    """A reloader, the file that it reads, and a record of its actions."""

    def __init__(self) -> None:
        self.file: Registry | ConfigInvalid = registry("a", "b", "c")
        self.offered = OfferedModels(registry("a", "b", "c"))
        self.in_force = registry("a", "b", "c")
        self.actions: list[str] = []
        self.failure: DockerUnavailable | None = None
        self.write_failure: FilesUnwritable | None = None
        self.drifted_ids, self.outdated_ids = set[str](), set[str]()
        self.reloader = Reloader(
            self.read,
            offered=self.offered,
            models=self,
            files=self,
            remove_leftovers=lambda ids: self.actions.append(f"only {' '.join(ids)}"),
            take_templates=lambda: self.actions.append("templates"),
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
            assert model_id in self.in_force.models
        self.actions.append(f"drop {' '.join(model_ids)}")

    def change(self, models: Mapping[str, ModelSpec], /, *, remade: Collection[str]) -> None:
        assert self.in_force.models == models
        self.actions.append(f"change {' '.join(models)}, remake {' '.join(remade)}")

    def reopen(self) -> None:
        self.actions.append("reopen")

    def drifted(self) -> set[str]:
        if self.failure is not None:
            raise self.failure
        return self.drifted_ids

    def outdated(self) -> set[str]:
        return self.outdated_ids

    def service_texts(self, registry: Registry, /) -> dict[str, str]:
        return {spec.id: f"{spec.port} {spec.env}" for spec in registry.models.values()}

    def ports(self) -> dict[str, int]:
        return {spec.id: spec.port or 8001 + number for number, spec in enumerate(self.in_force.models.values())}

    def deploy(self, registry: Registry, /) -> None:
        if self.write_failure is not None:
            raise self.write_failure
        self.in_force = registry


def registry(*ids: str, **changes: ModelSpec) -> Registry:
    specs = {model_id: changes.get(model_id) or make_spec(model_id) for model_id in ids}
    return Registry(models=specs)


@pytest.fixture
def world() -> World:
    return World()


class TestReload:
    def test_each_model_is_treated_by_its_change(self, world: World) -> None:
        """A new one exists at once. A removed one is no longer offered, then stopped, and removed before the Compose
        file loses it. Of the others only those whose service has changed are restarted."""
        world.file = registry("b", "c", "d", b=make_spec("b", env={"X": "1"}), c=make_spec("c", idle_timeout_s=5.0))
        expected = Changes(added=("d",), removed=("a",), remade=("b",), adjusted=("c",))
        assert world.reloader.reload(dry_run=True) == expected
        assert world.actions == []
        assert world.reloader.reload() == expected
        assert world.actions == [
            "templates",
            "change a b c d, remake ",
            "drop a",
            "only b c d",
            "change b c d, remake b",
        ]
        assert list(world.offered.models) == ["b", "c", "d"]

    def test_a_broken_file_changes_nothing(self, world: World) -> None:
        """The old one stays in force, and `problems` has the mistakes until the file is valid again."""
        world.file = ConfigInvalid(["models.yaml:3: bad"])
        with pytest.raises(ConfigInvalid):
            world.reloader.reload()
        assert world.actions == []
        assert list(world.reloader.problems) == ["models.yaml:3: bad"]
        world.file = registry("a", "b", "c")
        assert world.reloader.reload() == Changes(unchanged=("a", "b", "c"))
        assert world.reloader.problems == ()

    def test_a_dry_run_changes_nothing(self, world: World) -> None:
        """Its errors are not among the `problems`."""
        world.file = ConfigInvalid(["bad"])
        with pytest.raises(ConfigInvalid):
            world.reloader.reload(dry_run=True)
        assert world.reloader.problems == ()

    def test_a_model_that_cannot_be_stopped_stays(self, world: World) -> None:
        """With Docker unreachable the whole old registry stays in force, and a new attempt completes the reload."""
        world.file = registry("b", "c")
        world.failure = DockerUnavailable("away")
        with pytest.raises(DockerUnavailable):
            world.reloader.reload(cures_drift=False)
        assert world.offered.resolve("a").id == "a"
        assert "reopen" in world.actions
        world.failure = None
        assert world.reloader.reload().removed == ("a",)

    def test_what_cannot_be_written_is_not_in_force(self, world: World) -> None:
        """Requests, models and the Compose file all keep the old one, and a new attempt finds the same changes."""
        world.file = registry("b", "c", "d", b=make_spec("b", env={"X": "1"}))
        world.write_failure = FilesUnwritable("the disk is full")
        with pytest.raises(FilesUnwritable):
            world.reloader.reload()
        assert world.actions == ["templates"]
        assert list(world.offered.models) == ["a", "b", "c"]
        world.write_failure = None
        assert world.reloader.reload() == Changes(added=("d",), removed=("a",), remade=("b",), unchanged=("c",))

    def test_a_new_model_takes_over_a_port_when_it_is_free(self, world: World) -> None:
        """A renamed model keeps its `port:`; while its old name still uses the port, it serves on another one."""
        world.file = registry("a", "b", "d", d=make_spec("d", port=8003))
        assert world.reloader.reload().added == ("d",)
        assert world.actions[1] == "change a b c d, remake "
        assert world.actions[-1] == "change a b d, remake d"
        assert world.in_force.models["d"].port == 8003

    def test_an_automatic_port_goes_to_the_model_that_names_it(self, world: World) -> None:
        """The model that had the port automatically is restarted on another one."""
        world.file = registry("a", "b", "c", a=make_spec("a", port=world.ports()["b"]))
        assert {"a", "b"} == set(world.reloader.reload().remade)

    def test_drift_is_cured_by_an_explicit_reload(self, world: World) -> None:
        """Then a changed image or template restarts a running model; a reload by the file watch never does."""
        world.drifted_ids, world.outdated_ids = {"b"}, {"c"}
        world.reloader.follow()
        assert world.actions[-1] == "change a b c, remake "
        assert world.reloader.reload(dry_run=True).remade == ("b", "c")
        assert world.reloader.reload().remade == ("b", "c")
        assert world.actions[-1] == "change a b c, remake b c"


class TestFollowing:
    def test_changes_that_need_no_docker_are_applied_without_it(self, world: World) -> None:
        """A new model, and one whose container stays, needs no answer of Docker's."""
        world.file = registry("a", "b", "c", "d", b=make_spec("b", idle_timeout_s=5.0))
        world.failure = DockerUnavailable("away")
        world.reloader.follow()
        assert world.reloader.problems == ()
        assert list(world.offered.models) == ["a", "b", "c", "d"]
        assert not any(action.startswith("only") for action in world.actions)

    @pytest.mark.parametrize("what", ["failure", "write_failure", "file"])
    def test_every_failure_is_a_problem_until_it_is_over(self, world: World, what: str) -> None:
        """`problems`, which `/health` shows, has every reason why the file is not in force."""
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
    @staticmethod
    def watch(files: Mapping[Path, Stamp], on_change: Callable[[], None]) -> FileWatch:
        return FileWatch("it", lambda: files, on_change)

    def test_a_change_is_reported_once_it_is_complete(self, tmp_path: Path) -> None:
        """Each change is reported once, after the file was written or replaced; its removal is a change, too."""
        reports: list[str] = []
        path = tmp_path / "models.yaml"
        path.write_text("one")
        watch = self.watch(
            {path: stamp_of(path)}, lambda: reports.append(path.read_text() if path.exists() else "gone")
        )
        watch.look()
        for text in ("half", "half and more", "whole file"):
            path.write_text(text)
            watch.look()
        assert reports == []
        watch.look()
        watch.look()
        assert reports == ["whole file"]
        path.unlink()
        watch.look()
        path.write_text("replaced")
        for _ in range(3):
            watch.look()
        assert reports == ["whole file", "replaced"]
        path.unlink()
        for _ in range(3):
            watch.look()
        path.write_text("it is back")
        watch.look()
        watch.look()
        assert reports == ["whole file", "replaced", "gone", "it is back"]

    def test_a_change_before_the_start_of_the_watch_is_reported(self, tmp_path: Path) -> None:
        """The watch compares with the file as it was last read."""
        reports: list[str] = []
        path = tmp_path / "models.yaml"
        path.write_text("as it was read")
        read = stamp_of(path)
        path.write_text("changed during the start")
        watch = self.watch({path: read}, lambda: reports.append(path.read_text()))
        watch.look()
        watch.look()
        assert reports == ["changed during the start"]

    def test_a_change_that_could_not_be_applied_is_reported_again(self, tmp_path: Path) -> None:
        """It is reported every ten looks until it could be applied."""
        pending, reports = [True], list[str]()
        watch = FileWatch(
            "it", lambda: {tmp_path: stamp_of(tmp_path)}, lambda: reports.append("again"), lambda: pending[0]
        )
        for _ in range(20):
            watch.look()
        assert reports == ["again", "again"]
        pending[0] = False
        for _ in range(20):
            watch.look()
        assert reports == ["again", "again"]

    def test_files_may_join_and_leave(self, tmp_path: Path) -> None:
        """Each is compared with the content that is in force, also if the change that brought it came in between."""
        models, template = tmp_path / "models.yaml", tmp_path / "t.jinja"
        for path in (models, template):
            path.write_text("one")
        files, reports = {models: stamp_of(models)}, list[str]()
        watch = self.watch(files, lambda: reports.append(template.read_text()))
        files[template] = stamp_of(template)
        template.write_text("two, at once")
        for _ in range(3):
            watch.look()
        assert reports == ["two, at once"]
        files[template] = stamp_of(template)
        for _ in range(3):
            watch.look()
        template.write_text("refused")
        for _ in range(5):
            watch.look()
        del files[template]
        for _ in range(3):
            watch.look()
        assert reports == ["two, at once", "refused"]
