"""A changed models.yaml put into force by a working supervisor: whatever fails in between, no model is lost."""

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
    """A house's reloader, the file that it reads, and the errors on its way."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.file = dict(house.specs)
        self.offered_models = OfferedModels(Registry(models=dict(house.specs)))
        self.leftovers_error: OrchestrarError | None = None
        self.reloader = Reloader(
            lambda: Registry(models=self.file),
            offered=self.offered_models,
            models=house.supervisor,
            files=house.backend,
            remove_leftovers=self.remove_leftovers,
        )

    def remove_leftovers(self, model_ids: Collection[str]) -> None:
        if self.leftovers_error is not None:
            raise self.leftovers_error

    def ask(self, name: str) -> str:
        """Send one request by id or alias; returns the id of its container."""
        with_lease = self.house.supervisor.acquire(self.offered_models.resolve(name).id)
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
    def test_a_look_for_leftovers_that_fails_costs_no_model(self, house: House, reloads: Reloads) -> None:
        """The removed model had stopped already: it stays and can be used and stopped, and another try removes it."""
        reloads.ask("tiny")
        reloads.leftovers_error = DockerTimeout("Docker did not answer")
        assert isinstance(error_of(reloads.later(house.specs["other"])), DockerTimeout)
        reloads.ask("tiny")
        house.supervisor.stop("tiny")
        reloads.leftovers_error = None
        assert ("tiny",) == reloads.reloader.reload().removed
        assert ["other"] == [view.spec.id for view in house.supervisor.snapshot()]

    def test_one_that_cannot_be_stopped_keeps_no_other_closed(self, house: House, reloads: Reloads) -> None:
        """Of two removed models the one that did stop accepts requests again, too."""
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

    def test_a_model_that_is_added_again_works(self, house: House, reloads: Reloads) -> None:
        """It was removed from the file, that failed, and it is in the file again."""
        reloads.leftovers_error = DockerTimeout("Docker did not answer")
        error_of(reloads.later(house.specs["other"]))
        assert ("tiny", "other") == reloads.later(*house.specs.values()).result(HANG_S).unchanged
        reloads.ask("tiny")

    def test_a_stop_under_way_is_waited_for(self, house: House, reloads: Reloads) -> None:
        """A user stops a model in the middle of its removal: both succeed."""
        reloads.ask("tiny")
        house.backend.stop_gate.clear()
        stopping = house.later(house.supervisor.stop, "tiny")
        assert house.backend.stop_reached.wait(HANG_S)
        reloading = reloads.later(house.specs["other"])
        house.clock.until_waiting(1)
        house.backend.stop_gate.set()
        stopping.result(HANG_S)
        assert ("tiny",) == reloading.result(HANG_S).removed

    @pytest.mark.parametrize("writes", [0, 1])
    def test_a_full_disk_changes_nothing(self, house: House, reloads: Reloads, writes: int) -> None:
        """Whichever write fails, all models can be seen and used as before, and another try does all."""
        reloads.ask("tiny")
        deploy = house.backend.deploy

        def failing_deploy(registry: Registry) -> None:
            if house.backend.calls.count("deploy") == writes:
                raise FilesUnwritable("the disk is full")
            deploy(registry)

        house.backend.deploy = failing_deploy  # type: ignore[method-assign]
        new_spec = replace(house.specs["other"], env={"X": "1"})
        assert isinstance(error_of(reloads.later(new_spec)), FilesUnwritable)
        assert ["tiny", "other"] == [view.spec.id for view in house.supervisor.snapshot()]
        assert house.specs["other"] == house.supervisor.view("other").spec
        reloads.ask("tiny")
        house.backend.deploy = deploy  # type: ignore[method-assign]
        assert Changes(removed=("tiny",), remade=("other",)) == reloads.reloader.reload()


class TestRename:
    def test_its_alias_is_answered_while_the_old_one_drains(self, house: House, reloads: Reloads) -> None:
        """The request in flight ends on the old model, and requests meanwhile get the new one."""
        open_lease = house.supervisor.acquire("tiny")
        new = make_spec("new", aliases=("tiny",))
        reloading = reloads.later(new, house.specs["other"])
        until(lambda: house.state("tiny") is State.DRAINING)
        container_id = reloads.ask("tiny")
        assert container_id in house.backend.containers
        assert container_id != open_lease.container_id
        with pytest.raises(ModelStopping):
            house.supervisor.acquire("tiny")
        open_lease.release()
        assert Changes(added=("new",), removed=("tiny",), unchanged=("other",)) == reloading.result(HANG_S)
        assert container_id == reloads.ask("tiny")

    def test_without_room_for_both_it_waits(self, house: House, reloads: Reloads) -> None:
        """The old model keeps its memory until it is gone; then the request gets the new one."""
        house.backend.budget = Amount(memory_bytes=1)
        open_lease = house.supervisor.acquire("tiny")
        reloading = reloads.later(make_spec("new", aliases=("tiny",)), house.specs["other"])
        until(lambda: house.state("tiny") is State.DRAINING)
        asking = house.later(reloads.ask, "tiny")
        until(lambda: house.supervisor.view("new").waits_for == ("tiny",))
        open_lease.release()
        reloading.result(HANG_S)
        asking.result(HANG_S)


class TestLooksMeanwhile:
    def test_a_model_that_comes_or_goes_is_left_out(self, house: House) -> None:
        """A look at all models between two steps of a reload shows those that both know, and raises nothing."""
        house.backend.models = ["other"]
        assert ["other"] == [view.spec.id for view in house.supervisor.snapshot()]
        with pytest.raises(OrchestrarError, match="was removed"):
            house.supervisor.view("tiny")


class TestPorts:
    @pytest.fixture
    def new_entries(self, house: House, reloads: Reloads) -> dict[str, ModelSpec]:
        """Start two models, each on a port of its own; returns their entries with the ports exchanged."""
        house.backend.after_up = lambda container: replace(container, port=reloads.file[container.model_id].port)
        tiny, other = replace(house.specs["tiny"], port=7001), replace(house.specs["other"], port=7002)
        reloads.later(tiny, other).result(HANG_S)
        for name in ("tiny", "other"):
            reloads.ask(name)
        return {"tiny": replace(tiny, port=7002), "other": replace(other, port=7001)}

    def test_models_may_exchange_them(self, house: House, reloads: Reloads, new_entries: dict[str, ModelSpec]) -> None:
        """The first to end starts once the other one has ended its requests and released its port."""
        open_lease = house.supervisor.acquire("other")
        reloads.later(*new_entries.values()).result(HANG_S)
        until(lambda: "stop tiny-1" in house.backend.calls)
        request = house.later(reloads.ask, "tiny")
        until(lambda: house.supervisor.view("tiny").waiting == 1)
        assert house.state("tiny") is State.DRAINING
        open_lease.release()
        request.result(HANG_S)
        reloads.ask("other")
        calls = [call for call in house.backend.calls if call.startswith(("up", "stop"))]
        assert ["up tiny", "up other", "stop tiny-1", "stop other-2"] == calls[:4]
        assert {"up tiny", "up other"} == set(calls[4:])
        assert {"tiny": 7002, "other": 7001} == {view.spec.id: view.port for view in house.supervisor.snapshot()}

    def test_one_that_cannot_be_stopped_delays_no_other(
        self, house: House, reloads: Reloads, new_entries: dict[str, ModelSpec]
    ) -> None:
        """A model whose port is not released is started all the same, to find out which process has it."""
        stop = house.backend.stop

        def failing_stop(container_id: str, *, grace_s: int) -> None:
            if container_id.startswith("other"):
                raise DockerError("Docker did not stop it")
            stop(container_id, grace_s=grace_s)

        house.backend.stop = failing_stop  # type: ignore[method-assign]
        reloads.later(*new_entries.values()).result(HANG_S)
        reloads.ask("tiny")
        assert house.backend.calls.count("up tiny") == 2
        assert house.backend.calls.count("up other") == 1

    def test_a_stop_that_takes_too_long_is_not_waited_for(
        self, house: House, reloads: Reloads, new_entries: dict[str, ModelSpec]
    ) -> None:
        """The wait for the port ends soon after the other model's grace, whatever that waits for."""
        house.supervisor.acquire("other")
        reloads.later(*new_entries.values()).result(HANG_S)
        until(lambda: "stop tiny-1" in house.backend.calls)
        request = house.later(reloads.ask, "tiny")
        until(lambda: house.supervisor.view("tiny").waiting == 1)
        house.backend.stop_gate.clear()
        house.clock.until_waiting(3)
        house.clock.advance(STOP_GRACE_S + LEAVE_S)
        request.result(HANG_S)
        house.backend.stop_gate.set()
