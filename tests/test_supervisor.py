"""The supervisor with a fake Docker and a clock moved by hand: no test here sleeps."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any, TypeVar

import pytest

from controller.docker_service import Container
from controller.errors import (
    Cancelled,
    DeadlineExceeded,
    DockerUnavailable,
    ModelBusy,
    ModelPreparing,
    ModelStopping,
    OrchestrarError,
    Overloaded,
    StartFailed,
    Unavailable,
)
from controller.preparation import PreparationProgress
from controller.supervisor import CancelToken, Lease, State, Supervisor
from tests.fakes import HANG_S, FakeBackend, FakeClock, make_container, make_spec

T = TypeVar("T")


class House:
    """A supervisor of one or two models, with its fakes and threads to call it from."""

    def __init__(self, pool: ThreadPoolExecutor, **spec_values: Any) -> None:
        self.clock = FakeClock()
        self.backend = FakeBackend()
        self.specs = {"tiny": make_spec("tiny", **spec_values), "other": make_spec("other", **spec_values)}
        self._pool = pool
        self.supervisor = self.boot()

    def boot(self) -> Supervisor:
        """A supervisor as after a start of the controller."""
        return Supervisor(self.specs, self.backend, self.backend.probe, clock=self.clock, stop_grace_s=30)

    def later(self, call: Callable[..., T], *args: Any, **kwargs: Any) -> Future[T]:
        return self._pool.submit(call, *args, **kwargs)

    def state(self, model_id: str = "tiny") -> State:
        return self.supervisor.view(model_id).state

    def settled(self, model_id: str = "tiny") -> State:
        """The state once no start is under way."""
        slot = self.supervisor._slots[model_id]
        with slot.changed:
            assert slot.changed.wait_for(lambda: slot.attempt is None, HANG_S)
        return self.state(model_id)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(64) as threads:
        yield threads


@pytest.fixture
def house(pool: ThreadPoolExecutor) -> Iterator[House]:
    built = House(pool)
    yield built
    built.backend.up_gate.set()
    built.backend.stop_gate.set()
    built.supervisor.close()


def lease(house: House) -> Lease:
    return house.supervisor.acquire("tiny")


def error_of(future: Future[Any]) -> OrchestrarError:
    found = future.exception(HANG_S)
    assert isinstance(found, OrchestrarError)
    return found


class TestStart:
    def test_first_requests_share_one_start(self, house: House) -> None:
        """Fifty simultaneous first requests cause one `up`, and each of them gets a lease."""
        house.backend.up_gate.clear()
        requests = [house.later(lambda: lease(house).release()) for _ in range(50)]
        house.clock.until_waiting(50)
        assert house.supervisor.view("tiny").waiting == 50
        house.backend.up_gate.set()
        for request in requests:
            request.result(HANG_S)
        assert house.backend.calls == ["up tiny"]
        assert house.supervisor.view("tiny").in_flight == 0

    def test_a_ready_model_is_leased_at_once(self, house: House) -> None:
        """The second request starts nothing and has waited for no start."""
        lease(house).release()
        assert lease(house).start_s == 0.0
        assert house.backend.calls == ["up tiny"]

    def test_models_start_independently(self, house: House) -> None:
        """A model whose start hangs keeps no other model from starting."""
        house.backend.up_gate.clear()
        stuck = house.later(lease, house)
        assert house.backend.up_reached.wait(HANG_S)
        house.backend.containers["by-hand"] = make_container("other", id="by-hand")
        assert house.supervisor.acquire("other").container_id == "by-hand"
        house.backend.up_gate.set()
        stuck.result(HANG_S)

    def test_all_waiters_hear_why_a_start_failed(self, house: House) -> None:
        """A failed start fails every request that waited for it, once, and the next request tries again."""
        house.backend.up_gate.clear()
        house.backend.up_error = StartFailed("no such image")
        requests = [house.later(lease, house) for _ in range(5)]
        house.clock.until_waiting(5)
        house.backend.up_gate.set()
        assert {error_of(request).message for request in requests} == {"no such image"}
        assert house.state() is State.FAILED
        house.backend.up_error = None
        lease(house).release()
        assert house.backend.calls == ["up tiny", "up tiny"]

    def test_an_exit_while_starting_ends_the_wait(self, house: House) -> None:
        """A container that ends before it is ready fails the start with its exit code and its last log lines."""
        house.backend.ready = False
        house.backend.after_up = lambda c: replace(c, status="exited", exit_code=3)
        with pytest.raises(StartFailed) as caught:
            lease(house)
        assert caught.value.details["exit_code"] == 3
        assert caught.value.details["log"] == ["the last line"]
        assert "out of memory" not in caught.value.message

    def test_out_of_memory_is_said_on_evidence(self, house: House) -> None:
        """Docker's OOM flag puts the limit and the way to raise it into the failure card."""
        house.backend.ready = False
        house.backend.after_up = lambda c: replace(c, status="exited", exit_code=137, oom_killed=True)
        with pytest.raises(StartFailed, match="out of memory") as caught:
            lease(house)
        assert caught.value.details["fix"] == "raise resources.memory of tiny above 1024m in models.yaml"

    def test_a_silent_start_is_given_up(self, house: House) -> None:
        """A start without any progress for `start_timeout` is stopped and fails."""
        house.backend.ready = False
        with pytest.raises(StartFailed, match="made no progress for 120 s"):
            house.supervisor.acquire("tiny", max_wait_s=1e6)
        assert house.backend.calls == ["up tiny", "stop tiny-1"]

    def test_progress_extends_the_start(self, house: House) -> None:
        """A start that enters a new phase gets `start_timeout` anew."""
        begun = house.clock.monotonic()
        house.backend.ready = False

        def probe(port: int) -> Any:
            elapsed_s = house.clock.monotonic() - begun
            house.backend.phase = f"loading {elapsed_s // 100}"
            house.backend.ready = elapsed_s > 500
            return FakeBackend.probe(house.backend, port)

        supervisor = Supervisor(house.specs, house.backend, probe, clock=house.clock)
        supervisor.acquire("tiny", max_wait_s=1e6).release()
        assert house.clock.monotonic() - begun > 500

    def test_a_fault_of_ours_frees_the_waiters(self, house: House) -> None:
        """A bug in a start ends the waiters' wait with an error instead of leaving them for ever."""

        def fault(container: Container) -> Container:
            raise ZeroDivisionError

        house.backend.after_up = fault
        with pytest.raises(OrchestrarError, match="ZeroDivisionError"):
            lease(house)
        assert house.state() is State.FAILED

    def test_an_emptied_volume_is_prepared_again(self, house: House) -> None:
        """A runner that finds its volume unprepared (exit 78) makes the start prepare once more, then it works."""
        house.backend.ready = False

        def first_then_ready(container: Any) -> Any:
            if container.id == "tiny-1":
                return replace(container, status="exited", exit_code=78)
            house.backend.ready = True
            return container

        house.backend.after_up = first_then_ready
        lease(house).release()
        assert house.backend.calls == ["up tiny", "prepare tiny", "up tiny"]


class TestWaiting:
    def test_the_wait_is_bounded_and_the_start_goes_on(self, house: House) -> None:
        """A request waits `max_wait` at most; the start it waited for serves the next one."""
        house.backend.up_gate.clear()
        request = house.later(lease, house)
        house.clock.until_waiting(1)
        house.clock.advance(60)
        assert isinstance(error_of(request), DeadlineExceeded)
        house.backend.up_gate.set()
        assert house.settled() is State.READY
        lease(house).release()
        assert house.backend.calls == ["up tiny"]

    def test_a_leaving_client_aborts_nothing(self, house: House) -> None:
        """A client that leaves stops waiting at once; the start goes on for the others."""
        house.backend.up_gate.clear()
        token = CancelToken()
        leaver = house.later(house.supervisor.acquire, "tiny", token=token)
        other = house.later(lease, house)
        house.clock.until_waiting(2)
        token.cancel()
        assert isinstance(error_of(leaver), Cancelled)
        house.backend.up_gate.set()
        other.result(HANG_S).release()
        assert house.backend.calls == ["up tiny"]

    def test_a_client_that_left_before_waits_not_at_all(self, house: House) -> None:
        """A token cancelled before the wait begins ends it, though nobody will notify again."""
        house.backend.up_gate.clear()
        token = CancelToken()
        token.cancel()
        with pytest.raises(Cancelled):
            house.supervisor.acquire("tiny", token=token)

    def test_preparing_is_told_with_its_percentage(self, house: House) -> None:
        """Who waits for a download longer than `max_wait` hears how far it is, and that trying again helps."""
        gate = threading.Event()
        house.backend.prepared = set()
        house.supervisor = house.boot()
        assert house.state() is State.ABSENT

        def slow(model_id: str, on_progress: Any, cancelled: Any) -> None:
            on_progress(PreparationProgress(phase="downloading", fraction=0.43))
            assert gate.wait(HANG_S)

        house.backend.on_prepare = slow
        request = house.later(lease, house)
        house.clock.until_waiting(1)
        while house.supervisor.view("tiny").progress is None:
            pass
        house.clock.advance(60)
        error = error_of(request)
        assert isinstance(error, ModelPreparing)
        assert error.details == {"percent": 43}
        assert error.retry_after_s == 10.0
        gate.set()
        assert house.settled() is State.READY

    def test_closing_frees_the_waiters(self, house: House) -> None:
        """A controller that shuts down answers those who wait instead of keeping them."""
        house.backend.up_gate.clear()
        request = house.later(lease, house)
        house.clock.until_waiting(1)
        house.supervisor.close()
        assert isinstance(error_of(request), Unavailable)


class TestQueue:
    def test_turns_come_in_order(self, pool: ThreadPoolExecutor) -> None:
        """With `max_concurrency` leases out, callers wait, and each freed place goes to who came first."""
        house = House(pool, max_concurrency=1)
        order: list[int] = []
        held = lease(house)

        def take_turn(number: int) -> float:
            mine = lease(house)
            order.append(number)
            mine.release()
            return mine.queue_s

        waiting = []
        for number in range(5):
            waiting.append(house.later(take_turn, number))
            house.clock.until_waiting(number + 1)
        house.clock.advance(2)
        held.release()
        assert [future.result(HANG_S) for future in waiting] == [2.0] * 5
        assert order == [0, 1, 2, 3, 4]

    def test_a_full_queue_refuses(self, pool: ThreadPoolExecutor) -> None:
        """Beyond `max_concurrency` in flight and as many more as the queue takes, a caller is refused at once."""
        house = House(pool, max_concurrency=1, max_queue=1)
        held = lease(house)
        waiting = [house.later(lambda: lease(house).release()) for _ in range(2)]
        house.clock.until_waiting(2)
        with pytest.raises(Overloaded):
            lease(house)
        held.release()
        for future in waiting:
            future.result(HANG_S)
        lease(house).release()

    def test_a_leaver_makes_room(self, pool: ThreadPoolExecutor) -> None:
        """A client that leaves the queue's head hands its turn to the next."""
        house = House(pool, max_concurrency=1)
        held, token = lease(house), CancelToken()
        leaver = house.later(house.supervisor.acquire, "tiny", token=token)
        house.clock.until_waiting(1)
        following = house.later(lease, house)
        house.clock.until_waiting(2)
        token.cancel()
        assert isinstance(error_of(leaver), Cancelled)
        held.release()
        following.result(HANG_S).release()

    def test_waiting_for_a_turn_is_bounded(self, pool: ThreadPoolExecutor) -> None:
        """Who gets no turn within `max_wait` hears that the model is busy, and the queue goes on without them."""
        house = House(pool, max_concurrency=1)
        held = lease(house)
        late = house.later(lease, house)
        house.clock.until_waiting(1)
        house.clock.advance(60)
        assert "is busy: 1 requests in flight" in error_of(late).message
        held.release()
        lease(house).release()


class TestFaultsOfOurs:
    def test_a_fault_while_stopping_strands_nobody(self, house: House) -> None:
        """An unexpected error in an idle stop leaves the model serving, not draining for ever."""
        lease(house).release()
        house.clock.advance(900)
        find = house.backend.find

        def no_descriptors(model_id: str) -> Container | None:
            raise OSError(24, "Too many open files")

        house.backend.find = no_descriptors  # type: ignore[method-assign]
        with pytest.raises(OSError, match="Too many open files"):
            house.supervisor.reap()
        house.backend.find = find  # type: ignore[method-assign]
        assert house.state() is State.READY
        lease(house).release()

    def test_a_failing_idle_stop_is_not_hurried(self, house: House) -> None:
        """A stop that fails is tried again 10 s later, not at once and for ever."""
        lease(house).release()
        house.clock.advance(900)
        house.backend.stop_error = DockerUnavailable("away")
        house.supervisor.reap()
        house.supervisor.reap()
        assert house.backend.calls.count("stop tiny-1") == 1
        house.clock.advance(10)
        house.supervisor.reap()
        assert house.backend.calls.count("stop tiny-1") == 2

    def test_unreadable_files_end_no_start_in_limbo(self, house: House) -> None:
        """A start whose end cannot even look at the model's files still frees those who wait, and a stop works."""
        house.backend.up_error = StartFailed("no")

        def unreadable(model_id: str) -> bool:
            raise PermissionError

        house.backend.up_gate.clear()
        request = house.later(lease, house)
        assert house.backend.up_reached.wait(HANG_S)
        house.backend.is_prepared = unreadable  # type: ignore[method-assign]
        house.backend.up_gate.set()
        assert error_of(request).message == "no"
        house.supervisor.stop("tiny")
        assert house.state() is State.ABSENT

    def test_waiters_get_errors_of_their_own(self, house: House) -> None:
        """Each waiter raises its own exception: a shared one would keep every request's memory alive."""
        house.backend.up_gate.clear()
        house.backend.up_error = StartFailed("no such image", details={"exit_code": 1})
        requests = [house.later(lease, house) for _ in range(3)]
        house.clock.until_waiting(3)
        house.backend.up_gate.set()
        errors = [error_of(request) for request in requests]
        assert len({id(error) for error in errors}) == 3
        assert all(error.details == {"exit_code": 1} for error in errors)
        kept = house.supervisor.view("tiny").error
        assert kept is not None
        assert kept.__traceback__ is None


class TestIdle:
    def test_idle_time_counts_from_the_last_release(self, house: House) -> None:
        """A request longer than the idle timeout is not cut, and the full timeout follows its end."""
        held = lease(house)
        house.clock.advance(3 * 900)
        house.supervisor.reap()
        assert house.state() is State.READY
        held.release()
        house.clock.advance(899)
        house.supervisor.reap()
        assert house.state() is State.READY
        house.clock.advance(1)
        house.supervisor.reap()
        assert house.state() is State.STOPPED
        assert house.backend.calls == ["up tiny", "stop tiny-1"]

    def test_a_request_during_an_idle_stop_is_served(self, house: House) -> None:
        """A request that meets an idle stop waits for it and gets a new start: none is lost to the reaper."""
        lease(house).release()
        house.clock.advance(900)
        house.backend.stop_gate.clear()
        reaping = house.later(house.supervisor.reap)
        assert house.backend.stop_reached.wait(HANG_S)
        request = house.later(lease, house)
        house.clock.until_waiting(1)
        house.backend.stop_gate.set()
        request.result(HANG_S).release()
        reaping.result(HANG_S)
        assert house.backend.calls == ["up tiny", "stop tiny-1", "up tiny"]

    def test_a_run_during_an_idle_stop_is_kept_in_mind(self, house: House) -> None:
        """`run` without waiting, said while the model stops for idleness, starts it again when it has stopped."""
        lease(house).release()
        house.clock.advance(900)
        house.backend.stop_gate.clear()
        reaping = house.later(house.supervisor.reap)
        assert house.backend.stop_reached.wait(HANG_S)
        assert house.supervisor.run("tiny", wait=False).state is State.DRAINING
        house.backend.stop_gate.set()
        reaping.result(HANG_S)
        assert house.settled() is State.READY

    def test_an_idle_timeout_of_0_keeps_for_ever(self, pool: ThreadPoolExecutor) -> None:
        """`idle_timeout: 0` keeps a model until somebody stops it."""
        house = House(pool, idle_timeout_s=0.0)
        lease(house).release()
        house.clock.advance(1e6)
        house.supervisor.reap()
        assert house.state() is State.READY

    def test_keep_alive_0_stops_right_after(self, house: House) -> None:
        """A request's `keep_alive` of 0 makes the model due when that request is over."""
        lease(house).release(keep_alive_s=0)
        house.supervisor.reap()
        assert house.state() is State.STOPPED

    def test_keep_alive_below_0_keeps_for_ever(self, house: House) -> None:
        """A negative `keep_alive` takes the idle timeout away, the next request without one brings it back."""
        lease(house).release(keep_alive_s=-1)
        house.clock.advance(1e6)
        house.supervisor.reap()
        assert house.state() is State.READY
        lease(house).release()
        house.clock.advance(900)
        house.supervisor.reap()
        assert house.state() is State.STOPPED

    def test_release_counts_once(self, house: House) -> None:
        """Releasing a lease twice gives it back once: nobody else's lease is lost by it."""
        first, second = lease(house), lease(house)
        first.release()
        first.release()
        assert house.supervisor.view("tiny").in_flight == 1
        second.release()

    def test_the_monitor_sleeps_until_something_is_due(self, house: House) -> None:
        """The monitor's wait ends at the idle deadline, not before it and not at its own interval."""
        lease(house).release()
        waiting = house.later(house.supervisor.rest_until_due, 1e9)
        house.clock.until_waiting(1)
        house.clock.advance(900)
        assert waiting.result(HANG_S) is True


class TestStop:
    def test_stop_refuses_new_work_and_drains(self, house: House) -> None:
        """A stop lets the request in flight end, refuses new ones meanwhile, and later ones start the model again."""
        held = lease(house)
        stopping = house.later(house.supervisor.stop, "tiny")
        house.clock.until_waiting(1)
        with pytest.raises(ModelStopping):
            lease(house)
        assert "stop tiny-1" not in house.backend.calls
        held.release()
        stopping.result(HANG_S)
        assert house.state() is State.STOPPED
        lease(house).release()
        assert house.backend.calls == ["up tiny", "stop tiny-1", "up tiny"]

    def test_the_drain_is_bounded(self, house: House) -> None:
        """A request that does not end within the grace period does not keep the model from stopping."""
        held = lease(house)
        stopping = house.later(house.supervisor.stop, "tiny")
        house.clock.until_waiting(1)
        house.clock.advance(30)
        stopping.result(HANG_S)
        assert house.state() is State.STOPPED
        held.release()
        assert house.supervisor.view("tiny").in_flight == 0

    def test_stopping_a_start(self, house: House) -> None:
        """A stop ends a start under way: its container is stopped and who waited hears `model_stopping`."""
        house.backend.up_gate.clear()
        request = house.later(lease, house)
        assert house.backend.up_reached.wait(HANG_S)
        stopping = house.later(house.supervisor.stop, "tiny")
        house.clock.until_waiting(2)
        house.backend.ready = False
        house.backend.up_gate.set()
        stopping.result(HANG_S)
        assert isinstance(error_of(request), ModelStopping)
        assert house.state() is State.STOPPED
        assert house.backend.find("tiny") is not None
        assert not any(c.running for c in house.backend.find_all())

    def test_stopping_what_is_stopped(self, house: House) -> None:
        """A stop of a model at rest is no error and starts nothing."""
        house.supervisor.stop("tiny")
        assert house.backend.calls == []

    def test_stopping_what_runs_by_hand(self, house: House) -> None:
        """A container that nobody has adopted yet is stopped, too."""
        house.backend.containers["by-hand"] = make_container("tiny", id="by-hand")
        house.supervisor.stop("tiny")
        assert house.backend.calls == ["stop by-hand"]

    def test_a_recreated_container_is_stopped(self, house: House) -> None:
        """A stop ends what serves the model now, also when that was made anew by hand a moment ago."""
        lease(house).release()
        house.backend.containers = {"new": make_container("tiny", id="new")}
        house.supervisor.stop("tiny")
        assert not any(c.running for c in house.backend.find_all())

    def test_nothing_starts_while_files_are_deleted(self, house: House) -> None:
        """During a deletion requests and stops are refused, so that no container meets half its files."""
        house.backend.prepared = {"tiny"}
        reached, go_on = threading.Event(), threading.Event()

        def slow(model_id: str) -> int:
            reached.set()
            assert go_on.wait(HANG_S)
            return 1

        house.backend.delete_files = slow  # type: ignore[method-assign]
        deleting = house.later(house.supervisor.delete_files, "tiny")
        assert reached.wait(HANG_S)
        for call in (lease, lambda h: h.supervisor.stop("tiny")):
            with pytest.raises(ModelStopping):
                call(house)
        go_on.set()
        deleting.result(HANG_S)

    def test_a_failed_stop_keeps_the_model(self, house: House) -> None:
        """When Docker is away a stop says so, and the model goes on serving."""
        lease(house).release()
        house.backend.stop_error = DockerUnavailable("away")
        with pytest.raises(DockerUnavailable):
            house.supervisor.stop("tiny")
        assert house.state() is State.READY
        lease(house).release()

    def test_files_of_a_model_in_use_stay(self, house: House) -> None:
        """Files are deleted of a model at rest only; after that it is absent."""
        house.backend.prepared = {"tiny"}
        lease(house).release()
        with pytest.raises(ModelBusy):
            house.supervisor.delete_files("tiny")
        house.supervisor.stop("tiny")
        assert house.supervisor.delete_files("tiny") == 123
        assert house.state() is State.ABSENT


class TestDockerIsTheTruth:
    def test_what_runs_is_adopted_at_boot(self, house: House) -> None:
        """A model that outlived the controller serves again without an `up`."""
        house.backend.containers["old"] = make_container("tiny", id="old", port=9077)
        house.supervisor.adopt()
        assert house.settled() is State.READY
        held = lease(house)
        assert (held.container_id, held.port) == ("old", 9077)
        assert house.backend.calls == []

    def test_a_start_adopts_what_somebody_started_by_hand(self, house: House) -> None:
        """A request for a model that was started by hand a moment ago does not double it."""
        house.backend.containers["by-hand"] = make_container("tiny", id="by-hand")
        assert lease(house).container_id == "by-hand"
        assert house.backend.calls == []

    def test_a_stop_by_hand_is_noticed(self, house: House) -> None:
        """A container that ended outside of our doing makes the model stopped, and the next request starts it."""
        lease(house).release()
        house.backend.end("tiny-1", exit_code=0)
        house.supervisor.adopt()
        assert house.state() is State.STOPPED
        assert lease(house).container_id == "tiny-2"

    def test_a_recreation_by_hand_is_followed(self, house: House) -> None:
        """A container made anew by hand takes the old one's place."""
        lease(house).release()
        house.backend.containers = {"new": make_container("tiny", id="new", port=9055)}
        house.supervisor.adopt()
        house.settled()
        assert lease(house).port == 9055

    def test_an_old_look_does_not_undo_a_newer_start(self, house: House) -> None:
        """What Docker said before a start finished is not believed after it."""
        look, old = house.backend.find_all, house.backend.find_all()

        def look_and_start_meanwhile() -> Any:
            house.backend.find_all = look  # type: ignore[method-assign]
            lease(house).release()
            return old

        house.backend.find_all = look_and_start_meanwhile  # type: ignore[method-assign]
        house.supervisor.adopt()
        assert house.state() is State.READY

    def test_a_pause_by_hand_is_respected(self, house: House) -> None:
        """A paused container is not adopted, and a request for it names the command that lets it go on."""
        house.backend.containers["p"] = make_container("tiny", id="p", status="paused")
        house.supervisor.adopt()
        assert house.settled() is State.STOPPED
        house.backend.ready = False
        with pytest.raises(StartFailed, match="docker unpause test-tiny-1"):
            lease(house)

    def test_drift_and_usage_are_shown(self, house: House) -> None:
        """A container that is not what the Compose files describe now is shown as drifted, and left alone."""
        lease(house).release()
        house.backend.containers["tiny-1"] = replace(house.backend.containers["tiny-1"], config_hash="other")
        house.backend.drifted = lambda containers: {"tiny"}  # type: ignore[method-assign]
        house.supervisor.measure()
        view = house.supervisor.view("tiny")
        assert view.drifted
        assert view.usage is not None
        assert view.state is State.READY
