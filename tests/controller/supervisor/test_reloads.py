"""A changed models.yaml taken into force by a supervisor that works: whatever fails in between, no model is lost."""

from __future__ import annotations

from collections.abc import Collection
from concurrent.futures import Future
from dataclasses import replace

import pytest

from controller.errors import DockerError, DockerTimeout, FilesUnwritable, ModelStopping, OrchestrarError
from controller.registry import ModelSpec, OfferedModels, Registry
from controller.registry.reload import Changes, Reloader
from controller.supervisor import State
from controller.supervisor.backend import Amount
from controller.supervisor.policies.config_change import LEAVE_S
from tests.controller.supervisor.house import STOP_GRACE_S, House, error_of, until
from tests.fakes import HANG_S, make_spec


class Reloads:
    """A house's reloader, the file that it reads, and what fails on its way."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.file = dict(house.specs)
        self.offered = OfferedModels(Registry(models=dict(house.specs)))
        self.leftovers_error: OrchestrarError | None = None
        self.reloader = Reloader(
            lambda: Registry(models=self.file),
            offered=self.offered,
            models=house.supervisor,
            files=house.backend,
            remove_leftovers=self.remove_leftovers,
        )

    def remove_leftovers(self, known: Collection[str]) -> None:
        if self.leftovers_error is not None:
            raise self.leftovers_error

    def ask(self, name: str) -> str:
        """One request by id or alias; the container that it was given to."""
        with_lease = self.house.supervisor.acquire(self.offered.resolve(name).id)
        with_lease.release()
        return with_lease.container_id

    def later(self, *specs: ModelSpec) -> Future[Changes]:
        """Reload, with these models alone in the file."""
        self.file = {spec.id: spec for spec in specs}
        return self.house.later(self.reloader.reload)


@pytest.fixture
def reloads(house: House) -> Reloads:
    return Reloads(house)


class TestAFailureHalfWay:
    def test_leftovers_that_cannot_be_asked_for_cost_no_model(self, house: House, reloads: Reloads) -> None:
        """The removed model had stopped already: it stays and can be asked and stopped, and another try removes it."""
        reloads.ask("tiny")
        reloads.leftovers_error = DockerTimeout("Docker did not answer")
        assert isinstance(error_of(reloads.later(house.specs["other"])), DockerTimeout)
        reloads.ask("tiny")
        house.supervisor.stop("tiny")
        reloads.leftovers_error = None
        assert ("tiny",) == reloads.reloader.reload().removed
        assert ["other"] == [view.spec.id for view in house.supervisor.snapshot()]

    def test_one_that_cannot_be_stopped_keeps_no_other_shut(self, house: House, reloads: Reloads) -> None:
        """Of two removed models the one that did stop takes requests again, too."""
        reloads.ask("tiny")
        keeps_running = reloads.ask("other")
        stop = house.backend.stop

        def failing_stop(container_id: str, *, grace_s: int) -> None:
            if container_id == keeps_running:
                raise DockerError("Docker did not stop it")
            stop(container_id, grace_s=grace_s)

        house.backend.stop = failing_stop  # type: ignore[method-assign]
        assert isinstance(error_of(reloads.later(make_spec("new"))), DockerError)
        assert keeps_running == reloads.ask("other")
        reloads.ask("tiny")

    def test_put_back_it_is_as_it_was(self, house: House, reloads: Reloads) -> None:
        """A model that is written into the file again after the failure works."""
        reloads.leftovers_error = DockerTimeout("Docker did not answer")
        error_of(reloads.later(house.specs["other"]))
        assert ("tiny", "other") == reloads.later(*house.specs.values()).result(HANG_S).unchanged
        reloads.ask("tiny")

    def test_a_stop_under_way_is_waited_for(self, house: House, reloads: Reloads) -> None:
        """Somebody stops a model in the middle of its removal: both come to their end."""
        reloads.ask("tiny")
        house.backend.stop_gate.clear()
        stopping = house.later(house.supervisor.stop, "tiny")
        assert house.backend.stop_reached.wait(HANG_S)
        reloading = reloads.later(house.specs["other"])
        house.clock.until_waiting(1)
        house.backend.stop_gate.set()
        stopping.result(HANG_S)
        assert ("tiny",) == reloading.result(HANG_S).removed

    @pytest.mark.parametrize("written", [0, 1])
    def test_a_full_disk_changes_nothing(self, house: House, reloads: Reloads, written: int) -> None:
        """Whichever write fails, all models can be seen and asked as before, and another try does the whole."""
        reloads.ask("tiny")
        deploy = house.backend.deploy

        def failing_deploy(registry: Registry) -> None:
            if house.backend.calls.count("deploy") == written:
                raise FilesUnwritable("the disk is full")
            deploy(registry)

        house.backend.deploy = failing_deploy  # type: ignore[method-assign]
        changed = replace(house.specs["other"], env={"X": "1"})
        assert isinstance(error_of(reloads.later(changed)), FilesUnwritable)
        assert ["tiny", "other"] == [view.spec.id for view in house.supervisor.snapshot()]
        assert house.specs["other"] == house.supervisor.view("other").spec
        reloads.ask("tiny")
        house.backend.deploy = deploy  # type: ignore[method-assign]
        assert Changes(removed=("tiny",), remade=("other",)) == reloads.reloader.reload()


class TestRename:
    def test_its_alias_is_answered_while_the_old_one_drains(self, house: House, reloads: Reloads) -> None:
        """The request in flight ends on the old model, and whoever asks meanwhile gets the new one."""
        held = house.supervisor.acquire("tiny")
        new = make_spec("new", aliases=("tiny",))
        reloading = reloads.later(new, house.specs["other"])
        until(lambda: house.state("tiny") is State.DRAINING)
        got = reloads.ask("tiny")
        assert got in house.backend.containers
        assert got != held.container_id
        with pytest.raises(ModelStopping):
            house.supervisor.acquire("tiny")
        held.release()
        assert Changes(added=("new",), removed=("tiny",), unchanged=("other",)) == reloading.result(HANG_S)
        assert got == reloads.ask("tiny")

    def test_without_room_for_both_it_waits(self, house: House, reloads: Reloads) -> None:
        """The old one's memory is its own until it is gone; then the request gets the new one."""
        house.backend.budget = Amount(memory_bytes=1)
        held = house.supervisor.acquire("tiny")
        reloading = reloads.later(make_spec("new", aliases=("tiny",)), house.specs["other"])
        until(lambda: house.state("tiny") is State.DRAINING)
        asking = house.later(reloads.ask, "tiny")
        until(lambda: house.supervisor.view("new").waits_for == ("tiny",))
        held.release()
        reloading.result(HANG_S)
        asking.result(HANG_S)


class TestLooksMeanwhile:
    def test_a_model_that_comes_or_goes_is_left_out(self, house: House) -> None:
        """Whoever looks at all models between two steps of a reload sees those that both know, and no fault."""
        house.backend.models = ["other"]
        assert ["other"] == [view.spec.id for view in house.supervisor.snapshot()]
        with pytest.raises(OrchestrarError, match="was removed"):
            house.supervisor.view("tiny")


class TestPorts:
    @pytest.fixture
    def exchanged(self, house: House, reloads: Reloads) -> dict[str, ModelSpec]:
        """Two models that run, each on a port of its own, and their entries with the ports exchanged."""
        house.backend.after_up = lambda container: replace(container, port=reloads.file[container.model_id].port)
        tiny, other = replace(house.specs["tiny"], port=7001), replace(house.specs["other"], port=7002)
        reloads.later(tiny, other).result(HANG_S)
        for name in ("tiny", "other"):
            reloads.ask(name)
        return {"tiny": replace(tiny, port=7002), "other": replace(other, port=7001)}

    def test_models_may_exchange_them(self, house: House, reloads: Reloads, exchanged: dict[str, ModelSpec]) -> None:
        """The first to have ended starts once the other has ended what is in flight and left its port."""
        held = house.supervisor.acquire("other")
        reloads.later(*exchanged.values()).result(HANG_S)
        until(lambda: "stop tiny-1" in house.backend.calls)
        asked = house.later(reloads.ask, "tiny")
        until(lambda: house.supervisor.view("tiny").waiting == 1)
        assert house.state("tiny") is State.DRAINING
        held.release()
        asked.result(HANG_S)
        reloads.ask("other")
        done = [call for call in house.backend.calls if call.startswith(("up", "stop"))]
        assert ["up tiny", "up other", "stop tiny-1", "stop other-2"] == done[:4]
        assert {"up tiny", "up other"} == set(done[4:])
        assert {"tiny": 7002, "other": 7001} == {view.spec.id: view.port for view in house.supervisor.snapshot()}

    def test_one_that_cannot_be_stopped_delays_no_other(
        self, house: House, reloads: Reloads, exchanged: dict[str, ModelSpec]
    ) -> None:
        """A model whose port is not left is started all the same, to find out who has it."""
        stop = house.backend.stop

        def failing_stop(container_id: str, *, grace_s: int) -> None:
            if container_id.startswith("other"):
                raise DockerError("Docker did not stop it")
            stop(container_id, grace_s=grace_s)

        house.backend.stop = failing_stop  # type: ignore[method-assign]
        reloads.later(*exchanged.values()).result(HANG_S)
        reloads.ask("tiny")
        assert house.backend.calls.count("up tiny") == 2
        assert house.backend.calls.count("up other") == 1

    def test_a_stop_that_takes_too_long_is_not_waited_for(
        self, house: House, reloads: Reloads, exchanged: dict[str, ModelSpec]
    ) -> None:
        """The wait for the port ends soon after the other's grace, whatever keeps that from ending."""
        house.supervisor.acquire("other")
        reloads.later(*exchanged.values()).result(HANG_S)
        until(lambda: "stop tiny-1" in house.backend.calls)
        asked = house.later(reloads.ask, "tiny")
        until(lambda: house.supervisor.view("tiny").waiting == 1)
        house.backend.stop_gate.clear()
        house.clock.until_waiting(3)
        house.clock.advance(STOP_GRACE_S + LEAVE_S)
        asked.result(HANG_S)
        house.backend.stop_gate.set()
