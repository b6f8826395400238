"""Random interleavings of all that can happen to models; the invariants hold after each step."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from controller.docker.endings import Ending
from controller.errors import ModelStopping, OrchestrarError
from controller.registry import DeployedModels, ModelSpec, OfferedModels, Registry
from controller.registry.reload import Reloader
from controller.supervisor import CancelToken, Lease, Supervisor
from controller.supervisor.policies import config_change as changing
from controller.supervisor.slot import Slot
from controller.supervisor.states import RESTING, UNDER_WAY, State
from tests.controller.supervisor.parking_docker import ParkingDocker
from tests.controller.supervisor.world import ParkingClock, ParkingPool, ours, settle
from tests.fakes import HANG_S, make_spec

pytestmark = pytest.mark.long

# What each needs of the budget: the small ones fit beside each other, the large one beside none.
NEEDS = {"one": 1, "two": 1, "large": 2}
BUDGET = 2
STOP_GRACE_S = 30
CONCURRENCY = 2
# More than any back-off, deadline or pause before another try.
LONG_S = 400.0
models = st.sampled_from(list(NEEDS))
numbers = st.integers(min_value=0, max_value=7)


@dataclass(frozen=True)
class Stop:
    """A stop of a model, used or not, once the grace is over; for good, or for another one in its place."""

    model_id: str
    started_at: float
    is_final: bool
    is_under_way: Callable[[], bool]


class Change(Enum):
    """What a reload does to a model."""

    REMOVE = 1
    REMAKE = 2
    ADJUST = 3


CHANGES = st.sampled_from(Change)


@dataclass(eq=False)
class Ask:
    """A request that waits, with its lease once it has one."""

    slot: Slot
    deadline: float
    token: CancelToken
    future: Future[Lease]

    @property
    def lease(self) -> Lease | None:
        return self.future.result() if self.future.done() and self.future.exception() is None else None


def entry(model_id: str, **values: Any) -> ModelSpec:
    """Return the model's entry; the large one is preloaded, so that it comes back whenever it may."""
    return make_spec(model_id, max_concurrency=CONCURRENCY, preload=model_id == "large", **values)


class Interleavings(RuleBasedStateMachine):
    """Every rule lets one thing happen, and then waits until all threads stand still."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = ParkingClock()
        self.patches = pytest.MonkeyPatch()
        self.patches.setattr(changing, "ThreadPoolExecutor", ParkingPool)
        self.specs = {model_id: entry(model_id) for model_id in NEEDS}
        self.deployed_models = DeployedModels(Registry(models=self.specs))
        self.docker = ParkingDocker(self.deployed_models, NEEDS, BUDGET, self.clock)
        self.supervisor = Supervisor(
            self.specs, self.docker, self.docker.probe, clock=self.clock, stop_grace_s=STOP_GRACE_S, jitter=lambda: 0.5
        )
        self.reloader = Reloader(
            lambda: Registry(models=self.specs),
            offered=OfferedModels(Registry(models=self.specs)),
            models=self.supervisor,
            files=self.docker,
            remove_leftovers=self.docker.remove_leftovers,
        )
        self.slots = set(self.present_slots())
        self.pool = ThreadPoolExecutor(64)
        self.futures: list[Future[Any]] = []
        self.asks: list[Ask] = []
        self.tokens: list[CancelToken] = []
        self.stops: list[Stop] = []
        # Containers that ended under a lease, without us or because a grace was over.
        self.lost_ids: set[str] = set()

    def submit(self, call: Any, *args: Any, **kwargs: Any) -> Future[Any]:
        future = self.pool.submit(call, *args, **kwargs)
        self.futures.append(future)
        return future

    def present_slots(self) -> list[Slot]:
        """Return the records of the models that models.yaml has now."""
        return list(self.supervisor._slots.values())

    def wait_until_quiet(self) -> None:
        settle(self.slots, self.clock, self.docker.on_answer, self.futures)
        self.slots |= set(self.present_slots())
        model_ids = {slot.spec.id for slot in self.present_slots() if slot.holds is not None}
        running = {c.id: c.model_id for c in self.docker.containers.values() if c.running}
        self.docker.counted_ids = {container_id for container_id, owner in running.items() if owner in model_ids}

    def slot(self, model_id: str) -> Slot | None:
        return next((slot for slot in self.present_slots() if slot.spec.id == model_id), None)

    @rule(model_id=models, max_wait_s=st.sampled_from([5.0, 60.0]))
    def ask(self, model_id: str, max_wait_s: float) -> None:
        slot = self.slot(model_id)
        token = CancelToken()
        future = self.submit(self.supervisor.acquire, model_id, max_wait_s=max_wait_s, token=token)
        if slot is not None:
            self.asks.append(Ask(slot, self.clock.monotonic() + max_wait_s, token, future))
        self.wait_until_quiet()

    @rule(number=numbers, keep_alive_s=st.sampled_from([None, None, 0.0]))
    def release_or_leave(self, number: int, keep_alive_s: float | None) -> None:
        if not self.asks:
            return
        ask = self.asks.pop(number % len(self.asks))
        ask.token.cancel()
        self.wait_until_quiet()
        if ask.lease is not None:
            ask.lease.release(keep_alive_s=keep_alive_s)
        self.wait_until_quiet()

    @rule(model_id=models)
    def stop(self, model_id: str) -> None:
        stopping = self.submit(self.supervisor.stop, model_id)
        self.stops.append(Stop(model_id, self.clock.monotonic(), True, lambda: not stopping.done()))
        self.wait_until_quiet()

    @rule(changes=st.dictionaries(models, CHANGES, min_size=1), idle_timeout_s=st.sampled_from([600.0, 5.0]))
    def reload(self, changes: dict[str, Change], idle_timeout_s: float) -> None:
        """Remove models (or add them again), change their containers' configuration, or only their idle timeout.

        What an earlier reload could not do is tried again with it.
        """
        if self.reloader._reload_lock.locked():
            return
        specs = dict(self.specs)
        for model_id, change in changes.items():
            before = specs.pop(model_id, None)
            env = dict(before.env) if before is not None else {}
            if change is Change.REMAKE:
                env["X"] = env.get("X", "") + "1"
            if change is not Change.REMOVE:
                specs[model_id] = entry(model_id, idle_timeout_s=idle_timeout_s, env=env)
        self.specs = specs
        self.reload_as_is()

    @rule()
    def reload_as_is(self) -> None:
        """Put the file as it is into force: what an earlier reload could not do, or nothing."""
        if self.reloader._reload_lock.locked():
            return
        reloading = self.submit(self.reloader.reload)
        for model_id in NEEDS:
            is_final = model_id not in self.specs
            self.stops.append(Stop(model_id, self.clock.monotonic(), is_final, self._remakes(reloading, model_id)))
        self.wait_until_quiet()

    def _remakes(self, reloading: Future[Any], model_id: str) -> Callable[[], bool]:
        return lambda: not reloading.done() or f"remake {model_id}" in ours()

    @rule(model_id=models, is_left=st.booleans())
    def pull(self, model_id: str, is_left: bool) -> None:
        token = CancelToken()
        self.tokens.append(token)
        self.submit(lambda: [*self.supervisor.pull(model_id, token=token)])
        self.wait_until_quiet()
        if is_left:
            token.cancel()
            self.wait_until_quiet()

    @rule(model_id=models)
    def delete_files(self, model_id: str) -> None:
        deleting = self.submit(self.supervisor.delete_files, model_id)
        self.stops.append(Stop(model_id, self.clock.monotonic(), True, lambda: not deleting.done()))
        self.wait_until_quiet()

    @rule(model_id=models)
    def expire(self, model_id: str) -> None:
        self.submit(self.supervisor.expire, model_id)
        self.wait_until_quiet()

    @rule()
    def measure(self) -> None:
        self.submit(self.supervisor.measure)
        self.wait_until_quiet()

    @rule(what=st.sampled_from(["docker", "disk"]), times=st.integers(min_value=1, max_value=3))
    def next_ones_fail(self, what: str, times: int) -> None:
        """Let the next looks at Docker, or writes of the Compose file, fail."""
        self.docker.to_fail[what] = times

    @rule(model_id=models)
    def run(self, model_id: str) -> None:
        self.submit(self.supervisor.run, model_id, wait=False)
        self.wait_until_quiet()

    @rule(after_gap=st.booleans())
    def preload(self, after_gap: bool) -> None:
        """Do what ends a regular look, or one after Docker was away."""
        self.submit(self.supervisor.preload, after_gap=after_gap)
        self.wait_until_quiet()

    @rule()
    def reap(self) -> None:
        self.submit(self.supervisor.reap)
        self.wait_until_quiet()

    @rule()
    def look(self) -> None:
        self.submit(self.supervisor.adopt)
        self.wait_until_quiet()

    @rule(number=numbers, succeeds=st.sampled_from([True, True, True, False]))
    def docker_answers(self, number: int, succeeds: bool) -> None:
        calls = sorted(self.docker.under_way, key=str)
        if not calls:
            return
        call = calls[number % len(calls)]
        if succeeds and call.container_id:
            self._ends(call.model_id, call.container_id)
        self.docker.answer(call, succeeds=succeeds)
        self.wait_until_quiet()

    def _ends(self, model_id: str, container_id: str) -> None:
        """Note a container that a stop of ours ends: under a lease only once the grace of a user's stop is over."""
        now = self.clock.monotonic()
        may = any(
            stop.model_id == model_id and now >= stop.started_at + STOP_GRACE_S and stop.is_under_way()
            for stop in self.stops
        )
        for ask in self.asks:
            if ask.lease is not None and ask.lease.container_id == container_id:
                assert may, f"{container_id} is stopped under a lease"
                self.lost_ids.add(container_id)

    @rule(
        model_id=models,
        exit_code=st.sampled_from([1, 0, 137]),
        ending=st.builds(Ending, is_known=st.booleans(), was_ordered=st.booleans(), oom=st.booleans()),
    )
    def ends_outside(self, model_id: str, exit_code: int, ending: Ending) -> None:
        container = self.docker.running(model_id)
        if container is not None:
            self.lost_ids.add(container.id)
            self.docker.endings[container.id] = ending
            self.docker.end(container.id, exit_code=exit_code)
        self.wait_until_quiet()

    @rule(model_id=models)
    def start_by_hand(self, model_id: str) -> None:
        if self.docker.running(model_id) is None:
            self.docker.create(model_id, by_hand=True)
        self.wait_until_quiet()

    @rule(model_id=models, is_paused=st.booleans())
    def pause(self, model_id: str, is_paused: bool) -> None:
        container = self.docker.running(model_id)
        if container is not None:
            self.docker.paused(container.id, is_paused=is_paused)
        self.wait_until_quiet()

    @rule(model_id=models)
    def becomes_slow_or_quick(self, model_id: str) -> None:
        self.docker.slow ^= {model_id}
        self.wait_until_quiet()

    @rule(seconds=st.sampled_from([0.1, 1.0, 5.0, 10.0, 100.0, 900.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.wait_until_quiet()

    @invariant()
    def nothing_wrong_was_asked_of_docker(self) -> None:
        """One container a model, one command at a time on it, and never a start beyond the budget."""
        assert [] == self.docker.wrong

    @invariant()
    def no_lease_on_a_stopped_model(self) -> None:
        for ask in self.asks:
            if ask.lease is not None and ask.lease.container_id not in self.lost_ids:
                container = self.docker.containers.get(ask.lease.container_id)
                assert container is not None
                assert container.running, f"a lease is out on {container.id}, which is {container.status}"

    @invariant()
    def an_attempt_is_under_way_exactly_while_the_state_says_so(self) -> None:
        for slot in self.slots:
            assert (slot.attempt is not None) == (slot.state in UNDER_WAY), slot.spec.id
            assert slot.state is State.DRAINING or not slot.is_retiring, slot.spec.id

    @invariant()
    def leases_are_counted(self) -> None:
        for slot in self.slots:
            count = sum(ask.slot is slot and ask.lease is not None for ask in self.asks)
            assert count == slot.leases <= CONCURRENCY

    @invariant()
    def no_request_waits_past_its_deadline(self) -> None:
        for ask in self.asks:
            assert ask.future.done() or self.clock.monotonic() < ask.deadline

    @invariant()
    def only_a_final_stop_turns_requests_away(self) -> None:
        """Keep requests waiting through evictions, idle stops and restarts of changed models."""
        closed = {stop.model_id for stop in self.stops if stop.is_final}
        for ask in self.asks:
            if ask.future.done() and isinstance(ask.future.exception(), ModelStopping):
                assert ask.slot.spec.id in closed

    @invariant()
    def no_model_stays_closed(self) -> None:
        """Keep a model closed to requests only while a stop of it, or a reload, is under way."""
        for slot in self.present_slots():
            closed_by = [stop for stop in self.stops if stop.model_id == slot.spec.id and stop.is_under_way()]
            assert not slot.stop_requested or closed_by

    @invariant()
    def every_error_has_a_name(self) -> None:
        for future in [future for future in self.futures if future.done()]:
            error = future.exception()
            assert error is None or isinstance(error, OrchestrarError), repr(error)
            if error is not None:
                assert error.code != "internal_error", error.message

    def teardown(self) -> None:
        """Check that all requests end once Docker answers, and that every model can be used again."""
        try:
            self._let_go()
            self._assert_all_at_rest()
            for slot in self.present_slots():
                self._assert_usable(slot.spec.id)
        finally:
            self.patches.undo()
            self.supervisor.close()
            self.clock.advance(1)
            self.pool.shutdown(wait=False)
            for future in self.futures:
                future.exception(HANG_S)

    def _let_go(self) -> None:
        self.docker.slow.clear()
        self.docker.to_fail = {"docker": 0, "disk": 0}
        for _ in range(20):
            for token in [*self.tokens, *(ask.token for ask in self.asks)]:
                token.cancel()
            self.wait_until_quiet()
            for ask in self.asks:
                if ask.lease is not None:
                    ask.lease.release()
            self._docker_does_all()
            if all(future.done() for future in self.futures) and not ours():
                break
            self.clock.advance(LONG_S)
        assert ours() == []

    def _docker_does_all(self) -> None:
        self.wait_until_quiet()
        while self.docker.under_way:
            self.docker.answer(self.docker.under_way[0], succeeds=True)
            self.wait_until_quiet()
            # A preparation looks for its end once in a while.
            self.clock.advance(1)
            self.wait_until_quiet()

    def _assert_all_at_rest(self) -> None:
        for slot in self.present_slots():
            assert slot.state in {*RESTING, State.READY, State.PAUSED}, f"{slot.spec.id} stays {slot.state.value}"
            flags = (slot.attempt, slot.stop_requested, slot.is_retiring, slot.leases, slot.queue)
            assert (None, False, False, 0, []) == flags, slot.spec.id

    def _assert_usable(self, model_id: str) -> None:
        for container in list(self.docker.containers.values()):
            if container.status == "paused":
                self.docker.paused(container.id, is_paused=False)
        for call in (self.supervisor.adopt, lambda: self.supervisor.run(model_id, wait=False)):
            self.submit(call)
            self._docker_does_all()
        request = self.submit(self.supervisor.acquire, model_id, max_wait_s=LONG_S)
        for _ in range(5):
            self._docker_does_all()
            if request.done():
                break
            # Models that have just become ready keep their place for a moment.
            self.clock.advance(20)
        request.result(0).release()


# Without these a sequence goes deeper into which model gets the memory next.
DISTURBANCES = (
    "reload", "reload_as_is", "preload", "pull", "delete_files", "measure", "look", "next_ones_fail", "ends_outside",
    "start_by_hand", "pause", "becomes_slow_or_quick",
)  # fmt: skip
Crowded: type[Interleavings] = type("Crowded", (Interleavings,), dict.fromkeys(DISTURBANCES))

TestInterleavings = Interleavings.TestCase
TestCrowded = Crowded.TestCase
STEPS = settings(stateful_step_count=60, deadline=None, print_blob=True)
TestInterleavings.settings = STEPS
# Its threads wait for each other more, which takes time.
TestCrowded.settings = settings(STEPS, max_examples=STEPS.max_examples // 2)
