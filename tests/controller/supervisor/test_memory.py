"""The memory budget: which models wait, which are stopped, and that none is lost or starves."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from controller.docker.container import Container, Usage
from controller.errors import DeadlineExceeded, DockerError, DockerUnavailable, ModelBusy, NoRoom, StartFailed
from controller.supervisor import State, Supervisor
from controller.supervisor.backend import Amount, Readiness
from controller.supervisor.starts.starter import NOT_PREPARED_EXIT
from tests.controller.supervisor.house import House, error_of, until
from tests.fakes import HANG_S, make_container

GIB = 1 << 30


@pytest.fixture
def tight(house: House) -> House:
    """Leave room for one of the two models."""
    house.backend.budget = Amount(memory_bytes=GIB)
    house.backend.need = {"tiny": Amount(memory_bytes=GIB), "other": Amount(memory_bytes=GIB)}
    return house


def serve(house: House, model_id: str) -> None:
    house.supervisor.acquire(model_id).release()


class TestEviction:
    def test_an_idle_model_makes_room(self, tight: House) -> None:
        """A model after its `min_residency` is stopped for the other, which then starts; both still work."""
        serve(tight, "tiny")
        tight.clock.advance(10)
        serve(tight, "other")
        assert (tight.state("tiny"), tight.state("other")) == (State.STOPPED, State.READY)
        tight.clock.advance(10)
        serve(tight, "tiny")
        assert tight.backend.calls == ["up tiny", "stop tiny-1", "up other", "stop other-2", "up tiny"]

    def test_one_that_just_became_ready_keeps_its_place(self, tight: House) -> None:
        """Within its `min_residency` an idle model is not stopped; the request waits and gets its model after that."""
        serve(tight, "tiny")
        waiting = tight.later(serve, tight, "other")
        tight.clock.until_waiting(2)
        assert tight.supervisor.view("other").waits_for == ("tiny",)
        assert tight.state("tiny") is State.READY
        tight.clock.advance(10)
        waiting.result(HANG_S)

    def test_unbroken_traffic_starves_no_model(self, tight: House) -> None:
        """After `min_residency` of waiting the busy model accepts no new requests, ends its own, and stops; requests
        that came meanwhile get it back in their turn."""
        first = tight.supervisor.acquire("tiny")
        waiting = tight.later(tight.supervisor.acquire, "other")
        tight.clock.until_waiting(2)
        tight.supervisor.acquire("tiny").release()
        tight.clock.advance(10)
        until(lambda: tight.state("tiny") is State.DRAINING)
        newcomer = tight.later(tight.supervisor.acquire, "tiny")
        tight.clock.until_waiting(4)
        assert not waiting.done()
        first.release()
        waiting.result(HANG_S).release()
        assert not newcomer.done()
        tight.clock.advance(10)
        newcomer.result(HANG_S).release()

    def test_a_place_that_no_request_wants_any_more_is_kept(self, tight: House) -> None:
        """When the waiting request's time is up, the busy model that had to go accepts requests again."""
        first = tight.supervisor.acquire("tiny")
        waiting = tight.later(tight.supervisor.acquire, "other", max_wait_s=20)
        tight.clock.until_waiting(2)
        tight.clock.advance(10)
        until(lambda: tight.state("tiny") is State.DRAINING)
        tight.clock.advance(10)
        error = error_of(waiting)
        assert isinstance(error, DeadlineExceeded)
        assert "memory" in error.message
        assert "tiny" in error.message
        until(lambda: tight.state("tiny") is State.READY)
        tight.supervisor.acquire("tiny").release()
        first.release()
        assert tight.state_after_start("other") is State.STOPPED

    def test_pinned_models_stay_and_are_named(self, tight: House) -> None:
        """If no model can go: 503 at once, with the name of the one that holds the memory."""
        tight.supervisor = _pinned(tight)
        serve(tight, "tiny")
        error = error_of(tight.later(serve, tight, "other"))
        assert isinstance(error, NoRoom)
        assert error.details["held_by"] == ["tiny"]
        assert "tiny holds" in error.message
        assert tight.state("other") is State.STOPPED

    def test_a_paused_model_is_counted_from_the_first_look(self, tight: House) -> None:
        """A controller that finds a model paused by hand does not give its memory to another one."""
        tight.backend.containers["p"] = make_container("tiny", id="p", status="paused")
        tight.supervisor.adopt()
        assert GIB == tight.supervisor.gauges()["tiny"].counted_bytes
        waiting = tight.later(tight.supervisor.acquire, "other")
        tight.clock.until_waiting(2)
        assert tight.supervisor.view("other").waits_for == ("tiny",)
        tight.backend.end("p", exit_code=137)
        tight.supervisor.adopt()
        waiting.result(HANG_S).release()

    def test_a_container_beside_a_start_that_failed_is_counted(self, tight: House) -> None:
        """A user runs the model by hand while its own start fails: its memory counts until that container ends."""
        tight.backend.up_gate.clear()
        failing = tight.later(tight.supervisor.acquire, "tiny")
        assert tight.backend.up_reached.wait(HANG_S)
        waiting = tight.later(tight.supervisor.acquire, "other")
        tight.clock.until_waiting(3)
        tight.backend.containers["by-hand"] = make_container("tiny", id="by-hand")
        tight.backend.up_error = StartFailed("no")
        tight.backend.up_gate.set()
        assert isinstance(error_of(failing), StartFailed)
        tight.clock.until_waiting(2)
        tight.clock.advance(5)
        assert tight.supervisor.view("other").waits_for == ("tiny",)
        assert tight.backend.calls == ["up tiny"]
        tight.backend.up_error = None
        tight.backend.end("by-hand", exit_code=0)
        tight.supervisor.adopt()
        waiting.result(HANG_S).release()

    def test_more_than_there_is_at_all_is_refused(self, tight: House) -> None:
        tight.backend.need["other"] = Amount(memory_bytes=2 * GIB)
        serve(tight, "tiny")
        error = error_of(tight.later(serve, tight, "other"))
        assert isinstance(error, NoRoom)
        assert "lower its resources.memory" in error.message
        assert tight.state("tiny") is State.READY

    def test_a_busy_model_is_closed_for_no_longer_than_a_request_waits(self, tight: House) -> None:
        """Repeated requests for another model get no place beside an endless stream. The first one gets
        `deadline_exceeded` at `max_wait`, the others `insufficient_memory` a moment later; then the busy model accepts
        requests again, and keeps its place for its `min_residency`."""
        first = tight.supervisor.acquire("tiny")
        waiting = [tight.later(tight.supervisor.acquire, "other")]
        tight.clock.until_waiting(2)
        tight.clock.advance(10)
        until(lambda: tight.state("tiny") is State.DRAINING)
        waiting.append(tight.later(tight.supervisor.acquire, "other"))
        until(lambda: tight.supervisor.view("other").waiting == 2)
        tight.clock.advance(50)
        assert "deadline_exceeded" == error_of(waiting[0]).code
        assert not waiting[1].done()
        tight.clock.advance(1)
        assert "insufficient_memory" == error_of(waiting[1]).code
        until(lambda: tight.state("tiny") is State.READY)
        tight.supervisor.acquire("tiny").release()
        first.release()

    def test_no_model_is_closed_for_an_impossible_start(self, tight: House) -> None:
        """If Docker does not answer, the start fails with that, and the model that would have had to go serves on."""
        serve(tight, "tiny")
        tight.clock.advance(10)
        find, states = tight.backend.find, []

        def hung(model_id: str) -> Container:
            states.append(tight.state("tiny"))
            raise DockerUnavailable("away")

        tight.backend.find = hung  # type: ignore[method-assign]
        assert error_of(tight.later(serve, tight, "other")).code == "docker_unavailable"
        assert (states, tight.state("tiny")) == ([State.READY], State.READY)
        tight.backend.find = find  # type: ignore[method-assign]

    def test_files_of_a_model_that_makes_room_are_not_touched(self, tight: House) -> None:
        """A refused deletion changes nothing: the model still stops when its request has ended."""
        open_lease = tight.supervisor.acquire("tiny")
        waiting = tight.later(serve, tight, "other")
        tight.clock.until_waiting(2)
        tight.clock.advance(10)
        until(lambda: tight.state("tiny") is State.DRAINING)
        with pytest.raises(ModelBusy):
            tight.supervisor.delete_files("tiny")
        open_lease.release()
        waiting.result(HANG_S)

    @pytest.mark.parametrize("is_left", [True, False])
    def test_a_start_after_one_that_docker_failed_looks_first(self, tight: House, is_left: bool) -> None:
        """A container that it left is adopted; if there is none, the next start waits for its place as any other."""
        tight.backend.up_error = DockerError("no answer")
        assert error_of(tight.later(serve, tight, "tiny")).message == "no answer"
        tight.backend.up_error = None
        tight.backend.containers["other"] = make_container("other", id="other")
        tight.supervisor.adopt("other")
        assert tight.state_after_start("other") is State.READY
        if is_left:
            tight.backend.containers["left"] = make_container("tiny", id="left")
        request = tight.later(tight.supervisor.acquire, "tiny")
        if not is_left:
            tight.clock.until_waiting(2)
            assert tight.supervisor.view("tiny").waits_for == ("other",)
            tight.clock.advance(10)
        assert request.result(HANG_S).container_id == ("left" if is_left else "tiny-1")
        assert tight.state("other") is (State.READY if is_left else State.STOPPED)

    def test_work_on_files_frees_no_memory(self, tight: House) -> None:
        """A container that a failed start may have left keeps its part of the budget, whatever happens to its files."""
        tight.backend.up_error = DockerError("no answer")
        assert error_of(tight.later(serve, tight, "tiny")).message == "no answer"
        tight.backend.containers["left"] = make_container("tiny", id="left")

        def in_use(model_id: str) -> int:
            raise ModelBusy("it runs")

        tight.backend.delete_files = in_use  # type: ignore[method-assign]
        with pytest.raises(ModelBusy):
            tight.supervisor.delete_files("tiny")
        assert GIB == tight.supervisor.gauges()["tiny"].counted_bytes
        for _ in tight.supervisor.pull("tiny"):
            pass
        assert GIB == tight.supervisor.gauges()["tiny"].counted_bytes

    @pytest.mark.parametrize("by", ["a pull", "a request after a deletion"])
    def test_a_preparation_holds_no_memory_for_an_ended_container(self, tight: House, by: str) -> None:
        """If a failed start left nothing, others get its place while the model's files are made, maybe for hours."""
        tight.backend.up_error = DockerError("no answer")
        assert error_of(tight.later(serve, tight, "tiny")).message == "no answer"
        tight.backend.up_error = None
        go_on = threading.Event()
        tight.backend.on_prepare = lambda *_: None if go_on.wait(HANG_S) else pytest.fail("the gate stayed closed")
        if by == "a pull":
            tight.supervisor.pull("tiny")
        else:
            tight.backend.prepared_models = {"tiny", "other"}
            tight.supervisor.delete_files("tiny")
            tight.later(tight.supervisor.acquire, "tiny")
        until(lambda: tight.state("tiny") is State.PREPARING)
        serve(tight, "other")
        go_on.set()

    def test_a_model_found_running_that_has_to_be_made_waits_for_its_place(self, tight: House) -> None:
        """It was started by hand from an empty volume, beside a model in use, and ends because of that: its own start
        waits for the budget as any other."""
        tight.backend.prepared_models = {"other"}
        open_lease = tight.supervisor.acquire("other")
        tight.backend.containers["by-hand"] = make_container("tiny", id="by-hand")
        tight.backend.ready = False
        inspect = tight.backend.inspect

        def ends(container_id: str) -> Container | None:
            if container_id == "by-hand":
                tight.backend.end(container_id, exit_code=NOT_PREPARED_EXIT)
                tight.backend.ready = True
            return inspect(container_id)

        tight.backend.inspect = ends  # type: ignore[method-assign]
        request = tight.later(tight.supervisor.acquire, "tiny")
        until(lambda: tight.supervisor.view("tiny").waits_for == ("other",))
        assert "up tiny" not in tight.backend.calls
        open_lease.release()
        tight.clock.advance(10)
        request.result(HANG_S).release()

    def test_a_pinned_model_at_rest_blocks_no_start(self, tight: House) -> None:
        """A look finds out what a failed start has left; until then others wait instead of being refused."""
        tight.supervisor = _pinned(tight)
        tight.backend.up_error = DockerError("no answer")
        assert error_of(tight.later(serve, tight, "tiny")).message == "no answer"
        tight.backend.up_error = None
        request = tight.later(serve, tight, "other")
        tight.clock.until_waiting(2)
        tight.supervisor.adopt()
        request.result(HANG_S)

    def test_memory_of_a_starting_model_counts_as_used(self, tight: House) -> None:
        """The part of free memory that it has taken is its own, and no reason to refuse another model."""
        samples_bytes: list[int] = []

        def room(used_bytes: int) -> Amount:
            samples_bytes.append(used_bytes)
            return Amount(memory_bytes=2 * GIB)

        probed, gate = threading.Event(), threading.Event()

        def slow(port: int, path: str) -> Readiness:
            probed.set()
            return Readiness(ready=gate.wait(HANG_S))

        tight.backend.room = room  # type: ignore[method-assign]
        tight.backend.probe = slow  # type: ignore[method-assign]
        tight.supervisor = tight.boot()
        tight.backend.working_sets = {"tiny-1": 77}
        starting = tight.later(serve, tight, "tiny")
        assert probed.wait(HANG_S)
        tight.supervisor.plan("other")
        gate.set()
        starting.result(HANG_S)
        assert samples_bytes[-1] == 77

    def test_a_victim_that_cannot_be_stopped_goes_on(self, tight: House) -> None:
        """If the stop fails, it serves as before, and 10 s later it has to go again."""
        serve(tight, "tiny")
        tight.clock.advance(10)
        tight.backend.stop_error = DockerUnavailable("away")
        waiting = tight.later(serve, tight, "other")
        until(lambda: tight.backend.calls.count("stop tiny-1") == 1 and tight.state("tiny") is State.READY)
        serve(tight, "tiny")
        tight.backend.stop_error = None
        tight.clock.until_waiting(2)
        tight.clock.advance(10)
        waiting.result(HANG_S)

    def test_a_victim_is_left_alone_from_the_moment_it_serves_again(
        self, tight: House, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """No moment lies between a stop that failed and its respite, in which another start could evict it again."""
        serve(tight, "tiny")
        tight.clock.advance(10)
        slot = tight.slot("tiny")
        stop_fails, respites = slot.stop_fails, []

        def note_respite(*, resting: State, is_gone: bool) -> bool:
            respites.append(slot.stop_not_before - tight.clock.monotonic())
            return stop_fails(resting=resting, is_gone=is_gone)

        monkeypatch.setattr(slot, "stop_fails", note_respite)
        tight.backend.stop_error = DockerUnavailable("away")
        waiting = tight.later(serve, tight, "other")
        until(lambda: len(respites) == 1)
        assert [10.0] == respites
        tight.backend.stop_error = None
        tight.clock.until_waiting(2)
        tight.clock.advance(10)
        waiting.result(HANG_S)

    def test_what_was_started_by_hand_is_adopted_over_budget(self, tight: House) -> None:
        """Users may start what they like; it counts, and nothing is stopped for it."""
        serve(tight, "tiny")
        tight.backend.containers["by-hand"] = make_container("other", id="by-hand", port=9002)
        tight.supervisor.adopt()
        assert tight.state_after_start("other") is State.READY
        assert tight.state("tiny") is State.READY
        assert tight.supervisor.view("other").holds_bytes == GIB

    def test_a_stop_frees_the_place(self, tight: House) -> None:
        """A waiting start goes on as soon as a user stops the other model."""
        open_lease = tight.supervisor.acquire("tiny")
        waiting = tight.later(serve, tight, "other")
        tight.clock.until_waiting(2)
        open_lease.release()
        tight.supervisor.stop("tiny")
        waiting.result(HANG_S)

    def test_a_start_that_waits_can_be_stopped(self, tight: House) -> None:
        serve(tight, "tiny")
        waiting = tight.later(serve, tight, "other")
        tight.clock.until_waiting(2)
        tight.supervisor.stop("other")
        assert error_of(waiting).code == "model_stopping"
        assert tight.state("other") is State.STOPPED


class TestCounting:
    def test_measured_memory_is_noted(self, house: House) -> None:
        serve(house, "tiny")
        house.backend.usage = lambda container_ids: {i: Usage(cpu_percent=0, memory_bytes=77) for i in container_ids}  # type: ignore[method-assign]
        house.backend.need["tiny"] = Amount(memory_bytes=99)
        house.supervisor.measure()
        assert house.backend.observed == {"tiny": 77}
        assert house.supervisor.view("tiny").holds_bytes == 99

    def test_samples_of_starts_count_too(self, house: House) -> None:
        """The largest sample may be one of the start."""
        house.backend.working_sets = {"tiny-1": 5000}
        serve(house, "tiny")
        house.supervisor.measure()
        assert house.backend.observed == {"tiny": 5000}

    def test_a_drifted_container_says_nothing_about_its_entry(self, house: House) -> None:
        """Its container was made from another entry; the API shows what it uses all the same."""
        serve(house, "tiny")
        house.backend.drifted = lambda containers: {"tiny"}  # type: ignore[method-assign]
        house.supervisor.measure()
        assert house.backend.observed == {}
        assert house.supervisor.view("tiny").usage is not None

    def test_usage_is_shown_even_if_drift_is_not_known(self, house: House) -> None:
        """A broken override keeps only Compose from describing the services."""
        serve(house, "tiny")

        def failing(containers: object) -> set[str]:
            raise DockerError("the override is broken")

        house.backend.drifted = failing  # type: ignore[method-assign]
        with pytest.raises(DockerError):
            house.supervisor.measure()
        assert house.supervisor.view("tiny").usage is not None

    def test_one_that_ends_while_it_is_counted_holds_nothing(self, house: House) -> None:
        """Its next start is admitted like any other."""
        serve(house, "tiny")
        needs = house.backend.needs

        def late(model_id: str, *, limit_bytes: int | None = None) -> Amount:
            if limit_bytes is not None:
                house.supervisor.stop(model_id)
            return needs(model_id, limit_bytes=limit_bytes)

        house.backend.needs = late  # type: ignore[method-assign]
        house.supervisor.measure()
        assert house.supervisor.view("tiny").holds_bytes is None

    def test_a_stopped_model_holds_nothing(self, house: House) -> None:
        serve(house, "tiny")
        assert house.supervisor.view("tiny").holds_bytes == 1
        house.supervisor.stop("tiny")
        assert house.supervisor.view("tiny").holds_bytes is None


class TestPlan:
    def test_it_explains_and_does_nothing(self, tight: House) -> None:
        serve(tight, "tiny")
        plan = tight.supervisor.plan("other")
        assert plan.verdict == "tiny would be stopped for it, in 10 s at the earliest"
        tight.clock.advance(10)
        assert tight.supervisor.plan("other").verdict == "tiny would be stopped for it"
        assert tight.supervisor.plan("tiny").verdict == "it runs already"
        assert tight.state("tiny") is State.READY
        assert tight.backend.calls == ["up tiny"]


def _pinned(house: House) -> Supervisor:

    house.specs["tiny"] = replace(house.specs["tiny"], pinned=True)
    return house.boot()
