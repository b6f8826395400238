"""Random interleavings of all that can happen to the models; the invariants hold after each step."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from controller.errors import ModelStopping, OrchestrarError
from controller.registry import LiveRegistry, Registry
from controller.reloading import Reloader
from controller.supervisor import CancelToken, Lease, Supervisor
from controller.supervisor.model import Slot
from tests.fakes import HANG_S, make_spec
from tests.supervisor.world import ParkingClock, ParkingDocker, settle

MODELS = ["one", "two"]
# Room for one of them at a time.
BUDGET = 1
STOP_GRACE_S = 30
CONCURRENCY = 2
models = st.sampled_from(MODELS)
numbers = st.integers(min_value=0, max_value=7)


@dataclass(frozen=True)
class Stop:
    """Somebody wants a model stopped, used or not, when the grace is over; for good, or for another in its place."""

    model_id: str
    begun: float
    is_final: bool
    is_under_way: Callable[[], bool]


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


class Interleavings(RuleBasedStateMachine):
    """Every rule lets one thing happen, and then waits until all threads stand still."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = ParkingClock()
        self.docker = ParkingDocker(MODELS, BUDGET)
        self.specs = {model_id: make_spec(model_id, max_concurrency=CONCURRENCY) for model_id in MODELS}
        self.supervisor = Supervisor(
            self.specs, self.docker, self.docker.probe, clock=self.clock, stop_grace_s=STOP_GRACE_S
        )
        self.supervisor._life._jitter = lambda: 0.5
        self.reloader = Reloader(
            lambda: Registry(models=self.specs),
            offered=LiveRegistry(Registry(models=self.specs)),
            deployed=LiveRegistry(Registry(models=self.specs)),
            models=self.supervisor,
            files=self.docker,
            remove_leftovers=lambda known: None,
        )
        self.slots = set(self.supervisor._slots.values())
        self.pool = ThreadPoolExecutor(64)
        self.futures: list[Future[Any]] = []
        self.asks: list[Ask] = []
        self.stops: list[Stop] = []
        # Containers that ended under those who used them, by no doing of ours or because a grace was over.
        self.lost: set[str] = set()

    def submit(self, call: Any, *args: Any, **kwargs: Any) -> Future[Any]:
        future = self.pool.submit(call, *args, **kwargs)
        self.futures.append(future)
        return future

    def settled(self) -> None:
        settle(self.slots, self.clock, self.docker, self.futures)
        self.slots |= set(self.supervisor._slots.values())

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

    @rule(
        model_id=models, is_removed=st.booleans(), is_other=st.booleans(), idle_timeout_s=st.sampled_from([600.0, 5.0])
    )
    def reload(self, model_id: str, is_removed: bool, is_other: bool, idle_timeout_s: float) -> None:
        """Take one model away (or back), change what its container is made of, or only how long it may be idle."""
        if self.reloader._turn.locked():
            return
        # What an earlier one could not do is not tried again.
        self.specs = dict(self.reloader._deployed.models)
        before = self.specs.get(model_id)
        env = dict(before.env) if before is not None else {}
        if is_other:
            env["X"] = env.get("X", "") + "1"
        spec = make_spec(model_id, max_concurrency=CONCURRENCY, idle_timeout_s=idle_timeout_s, env=env)
        others = {name: found for name, found in self.specs.items() if name != model_id}
        self.specs = others if is_removed and others else {**others, model_id: spec}
        reloading = self.submit(self.reloader.reload)
        name = f"remake {model_id}"
        self.stops.append(
            Stop(
                model_id,
                self.clock.monotonic(),
                is_removed,
                lambda: not reloading.done() or any(thread.name == name for thread in threading.enumerate()),
            )
        )
        self.settled()

    @rule(model_id=models)
    def run(self, model_id: str) -> None:
        self.submit(self.supervisor.run, model_id, wait=False)
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
        calls = sorted(self.docker.under_way, key=lambda call: call.name)
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

    @rule(model_id=models, exit_code=st.sampled_from([1, 0, 137]))
    def ends_by_itself(self, model_id: str, exit_code: int) -> None:
        found = self.docker.running(model_id)
        if found is not None:
            self.lost.add(found.id)
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
        """A start never exceeds the budget."""
        assert [] == self.docker.wrong

    @invariant()
    def one_container_per_model(self) -> None:
        running = [c.model_id for c in self.docker.containers.values() if c.running]
        assert sorted(set(running)) == sorted(running)

    @invariant()
    def no_lease_on_a_stopped_model(self) -> None:
        for ask in self.asks:
            if ask.lease is not None and ask.lease.container_id not in self.lost:
                found = self.docker.containers.get(ask.lease.container_id)
                assert found is not None
                assert found.running, f"a lease is held on {found.id}, which is {found.status}"

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
    def every_error_has_a_name(self) -> None:
        for future in [future for future in self.futures if future.done()]:
            error = future.exception()
            assert error is None or isinstance(error, OrchestrarError), repr(error)
            if error is not None:
                assert error.code != "internal_error", error.message

    def teardown(self) -> None:
        """When all let go and Docker answers, everybody comes to an end."""
        self.docker.slow.clear()
        for _ in range(20):
            for ask in self.asks:
                ask.token.cancel()
                if ask.lease is not None:
                    ask.lease.release()
            self.settled()
            while self.docker.under_way:
                self.docker.answer(self.docker.under_way[0], succeeds=True)
                self.settled()
            if all(future.done() for future in self.futures):
                break
            self.clock.advance(100)
            self.settled()
        self.supervisor.close()
        self.clock.advance(1)
        self.settled()
        self.pool.shutdown(wait=False)
        for future in self.futures:
            future.exception(HANG_S)


TestInterleavings = Interleavings.TestCase
TestInterleavings.settings = settings(stateful_step_count=60, deadline=None, print_blob=True)
