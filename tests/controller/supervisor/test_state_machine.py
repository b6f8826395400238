"""Random interleavings of all that can happen to the models; the invariants hold after each step."""

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
    """Somebody wants a model stopped, used or not, when the grace is over; for good, or for another in its place."""

    model_id: str
    begun: float
    is_final: bool
    is_under_way: Callable[[], bool]


class Change(Enum):
    """What a reload does to a model."""

    REMOVED = 1
    REMADE = 2
    ADJUSTED = 3


CHANGES = st.sampled_from(Change)


@dataclass(eq=False)
class Ask:
    """A request that waits, and its lease once it has one."""

    slot: Slot
    deadline: float
    token: CancelToken
    future: Future[Lease]

    @property
    def lease(self) -> Lease | None:
        return self.future.result() if self.future.done() and self.future.exception() is None else None


def made(model_id: str, **values: Any) -> ModelSpec:
    """The model's entry; the large one is preloaded, so that it comes back whenever it may."""
    return make_spec(model_id, max_concurrency=CONCURRENCY, preload=model_id == "large", **values)


class Interleavings(RuleBasedStateMachine):
    """Every rule lets one thing happen, and then waits until all threads stand still."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = ParkingClock()
        self.patches = pytest.MonkeyPatch()
        self.patches.setattr(changing, "ThreadPoolExecutor", ParkingPool)
        self.specs = {model_id: made(model_id) for model_id in NEEDS}
        self.deployed = DeployedModels(Registry(models=self.specs))
        self.docker = ParkingDocker(self.deployed, NEEDS, BUDGET, self.clock)
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
        self.slots = set(self.supervisor._slots.values())
        self.pool = ThreadPoolExecutor(64)
        self.futures: list[Future[Any]] = []
        self.asks: list[Ask] = []
        self.tokens: list[CancelToken] = []
        self.stops: list[Stop] = []
        # Containers that ended under those who used them, by no doing of ours or because a grace was over.
        self.lost: set[str] = set()

    def submit(self, call: Any, *args: Any, **kwargs: Any) -> Future[Any]:
        future = self.pool.submit(call, *args, **kwargs)
        self.futures.append(future)
        return future

    def settled(self) -> None:
        settle(self.slots, self.clock, self.docker.answered, self.futures)
        self.slots |= set(self.supervisor._slots.values())
        counted = {slot.spec.id for slot in self.supervisor._slots.values() if slot.holds is not None}
        running = {c.id: c.model_id for c in self.docker.containers.values() if c.running}
        self.docker.counted = {found for found, model_id in running.items() if model_id in counted}

    def slot(self, model_id: str) -> Slot | None:
        return next((slot for slot in self.supervisor._slots.values() if slot.spec.id == model_id), None)

    @rule(model_id=models, max_wait_s=st.sampled_from([5.0, 60.0]))
    def ask(self, model_id: str, max_wait_s: float) -> None:
        slot = self.slot(model_id)
        token = CancelToken()
        future = self.submit(self.supervisor.acquire, model_id, max_wait_s=max_wait_s, token=token)
        if slot is not None:
            self.asks.append(Ask(slot, self.clock.monotonic() + max_wait_s, token, future))
        self.settled()

    @rule(number=numbers, keep_alive_s=st.sampled_from([None, None, 0.0]))
    def release_or_leave(self, number: int, keep_alive_s: float | None) -> None:
        if not self.asks:
            return
        ask = self.asks.pop(number % len(self.asks))
        ask.token.cancel()
        self.settled()
        if ask.lease is not None:
            ask.lease.release(keep_alive_s=keep_alive_s)
        self.settled()

    @rule(model_id=models)
    def stop(self, model_id: str) -> None:
        stopping = self.submit(self.supervisor.stop, model_id)
        self.stops.append(Stop(model_id, self.clock.monotonic(), True, lambda: not stopping.done()))
        self.settled()

    @rule(changed=st.dictionaries(models, CHANGES, min_size=1), idle_timeout_s=st.sampled_from([600.0, 5.0]))
    def reload(self, changed: dict[str, Change], idle_timeout_s: float) -> None:
        """Take models away (or back), change what their containers are made of, or only how long they may be idle.

        What an earlier one could not do is tried again with it.
        """
        if self.reloader._turn.locked():
            return
        specs = dict(self.specs)
        for model_id, change in changed.items():
            before = specs.pop(model_id, None)
            env = dict(before.env) if before is not None else {}
            if change is Change.REMADE:
                env["X"] = env.get("X", "") + "1"
            if change is not Change.REMOVED:
                specs[model_id] = made(model_id, idle_timeout_s=idle_timeout_s, env=env)
        self.specs = specs
        self.reload_as_is()

    @rule()
    def reload_as_is(self) -> None:
        """Take the file as it is into force: what an earlier one could not do, or nothing."""
        if self.reloader._turn.locked():
            return
        reloading = self.submit(self.reloader.reload)
        for model_id in NEEDS:
            is_final = model_id not in self.specs
            self.stops.append(Stop(model_id, self.clock.monotonic(), is_final, self._remakes(reloading, model_id)))
        self.settled()

    def _remakes(self, reloading: Future[Any], model_id: str) -> Callable[[], bool]:
        return lambda: not reloading.done() or f"remake {model_id}" in ours()

    @rule(model_id=models, is_left=st.booleans())
    def pull(self, model_id: str, is_left: bool) -> None:
        token = CancelToken()
        self.tokens.append(token)
        self.submit(lambda: [*self.supervisor.pull(model_id, token=token)])
        self.settled()
        if is_left:
            token.cancel()
            self.settled()

    @rule(model_id=models)
    def delete_files(self, model_id: str) -> None:
        deleting = self.submit(self.supervisor.delete_files, model_id)
        self.stops.append(Stop(model_id, self.clock.monotonic(), True, lambda: not deleting.done()))
        self.settled()

    @rule(model_id=models)
    def expire(self, model_id: str) -> None:
        self.submit(self.supervisor.expire, model_id)
        self.settled()

    @rule()
    def measure(self) -> None:
        self.submit(self.supervisor.measure)
        self.settled()

    @rule(what=st.sampled_from(["docker", "disk"]), times=st.integers(min_value=1, max_value=3))
    def next_ones_fail(self, what: str, times: int) -> None:
        """The next looks at Docker, or writes of the Compose file."""
        self.docker.to_fail[what] = times

    @rule(model_id=models)
    def run(self, model_id: str) -> None:
        self.submit(self.supervisor.run, model_id, wait=False)
        self.settled()

    @rule(after_gap=st.booleans())
    def preload(self, after_gap: bool) -> None:
        """What a regular look, or one after Docker was away, ends with."""
        self.submit(self.supervisor.preload, after_gap=after_gap)
        self.settled()

    @rule()
    def reap(self) -> None:
        self.submit(self.supervisor.reap)
        self.settled()

    @rule()
    def look(self) -> None:
        self.submit(self.supervisor.adopt)
        self.settled()

    @rule(number=numbers, succeeds=st.sampled_from([True, True, True, False]))
    def docker_answers(self, number: int, succeeds: bool) -> None:
        calls = sorted(self.docker.under_way, key=str)
        if not calls:
            return
        call = calls[number % len(calls)]
        if succeeds and call.container_id:
            self._ends(call.model_id, call.container_id)
        self.docker.answer(call, succeeds=succeeds)
        self.settled()

    def _ends(self, model_id: str, container_id: str) -> None:
        """A stop of ours ends a container: under a lease only when the grace of a stop by somebody is over."""
        now = self.clock.monotonic()
        may = any(
            stop.model_id == model_id and now - stop.begun >= STOP_GRACE_S and stop.is_under_way()
            for stop in self.stops
        )
        for ask in self.asks:
            if ask.lease is not None and ask.lease.container_id == container_id:
                assert may, f"{container_id} is stopped under a lease"
                self.lost.add(container_id)

    @rule(
        model_id=models,
        exit_code=st.sampled_from([1, 0, 137]),
        ending=st.builds(Ending, is_known=st.booleans(), was_ordered=st.booleans(), oom=st.booleans()),
    )
    def ends_outside(self, model_id: str, exit_code: int, ending: Ending) -> None:
        found = self.docker.running(model_id)
        if found is not None:
            self.lost.add(found.id)
            self.docker.endings[found.id] = ending
            self.docker.end(found.id, exit_code=exit_code)
        self.settled()

    @rule(model_id=models)
    def start_by_hand(self, model_id: str) -> None:
        if self.docker.running(model_id) is None:
            self.docker.create(model_id, by_hand=True)
        self.settled()

    @rule(model_id=models, is_paused=st.booleans())
    def pause(self, model_id: str, is_paused: bool) -> None:
        found = self.docker.running(model_id)
        if found is not None:
            self.docker.paused(found.id, is_paused=is_paused)
        self.settled()

    @rule(model_id=models)
    def becomes_slow_or_quick(self, model_id: str) -> None:
        self.docker.slow ^= {model_id}
        self.settled()

    @rule(seconds=st.sampled_from([0.1, 1.0, 5.0, 10.0, 100.0, 900.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.settled()

    @invariant()
    def nothing_wrong_was_asked_of_docker(self) -> None:
        """One container a model, one command at a time on it, and never a start beyond the budget."""
        assert [] == self.docker.wrong

    @invariant()
    def no_lease_on_a_stopped_model(self) -> None:
        for ask in self.asks:
            if ask.lease is not None and ask.lease.container_id not in self.lost:
                found = self.docker.containers.get(ask.lease.container_id)
                assert found is not None
                assert found.running, f"a lease is held on {found.id}, which is {found.status}"

    @invariant()
    def an_attempt_is_under_way_exactly_while_the_state_says_so(self) -> None:
        for slot in self.slots:
            assert (slot.attempt is not None) == (slot.state in UNDER_WAY), slot.spec.id
            assert slot.state is State.DRAINING or not slot.is_retiring, slot.spec.id

    @invariant()
    def leases_are_counted(self) -> None:
        for slot in self.slots:
            held = sum(ask.slot is slot and ask.lease is not None for ask in self.asks)
            assert held == slot.leases <= CONCURRENCY

    @invariant()
    def nobody_waits_past_the_deadline(self) -> None:
        for ask in self.asks:
            assert ask.future.done() or self.clock.monotonic() < ask.deadline

    @invariant()
    def nobody_is_turned_away_by_a_stop_that_nobody_wanted(self) -> None:
        """Evictions, idle stops and models made anew are no matter of those who wait."""
        closed = {stop.model_id for stop in self.stops if stop.is_final}
        for ask in self.asks:
            if ask.future.done() and isinstance(ask.future.exception(), ModelStopping):
                assert ask.slot.spec.id in closed

    @invariant()
    def nobody_is_shut_out_for_good(self) -> None:
        """A model is closed to requests only while a stop of it, or a reload, is under way."""
        for slot in self.supervisor._slots.values():
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
        """When all let go and Docker answers, everybody comes to an end, and every model can be used again."""
        try:
            self._let_go()
            self._assert_all_at_rest()
            for slot in list(self.supervisor._slots.values()):
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
            self.settled()
            for ask in self.asks:
                if ask.lease is not None:
                    ask.lease.release()
            self._docker_does_all()
            if all(future.done() for future in self.futures) and not ours():
                break
            self.clock.advance(LONG_S)
        assert ours() == []

    def _docker_does_all(self) -> None:
        self.settled()
        while self.docker.under_way:
            self.docker.answer(self.docker.under_way[0], succeeds=True)
            self.settled()
            # Whoever prepares looks for it once in a while.
            self.clock.advance(1)
            self.settled()

    def _assert_all_at_rest(self) -> None:
        for slot in self.supervisor._slots.values():
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
        asked = self.submit(self.supervisor.acquire, model_id, max_wait_s=LONG_S)
        for _ in range(5):
            self._docker_does_all()
            if asked.done():
                break
            # Those that have just become ready keep their place for a moment.
            self.clock.advance(20)
        asked.result(0).release()


# Without these a sequence goes deeper into who gets the memory next.
DISTURBANCES = (
    "reload", "reload_as_is", "preload", "pull", "delete_files", "measure", "look", "next_ones_fail", "ends_outside",
    "start_by_hand", "pause", "becomes_slow_or_quick",
)  # fmt: skip
Crowded: type[Interleavings] = type("Crowded", (Interleavings,), dict.fromkeys(DISTURBANCES))

TestInterleavings = Interleavings.TestCase
TestCrowded = Crowded.TestCase
STEPS = settings(stateful_step_count=60, deadline=None, print_blob=True)
TestInterleavings.settings = STEPS
# Its threads wait for each other more, which takes its time.
TestCrowded.settings = settings(STEPS, max_examples=STEPS.max_examples // 2)
