"""The models' records, and every change of one: the other files tell a `Slot` what happened, and act on its answer.

Which event may happen in which state, and what follows, is the table of `states.py`.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

from controller.docker.container import Container, Usage
from controller.errors import ModelDied, ModelNotFound, NoRoom, OrchestrarError
from controller.registry import ModelSpec
from controller.supervisor.backend import Amount, PreparationProgress
from controller.supervisor.failures.backoff import Failures
from controller.supervisor.starts.attempt import Attempt
from controller.supervisor.states import RESTING, SERVING, TRANSITIONS, Event, Finding, IllegalEvent, State


@dataclass(eq=False)
class Slot:
    """The record of one model. Every method runs with the supervisor's lock held; `on_change` is on that lock."""

    # As models.yaml describes it; `spec` is the same on the engine that the model's files have decided.
    entry: ModelSpec
    spec: ModelSpec
    on_change: threading.Condition
    state: State = State.STOPPED
    # Counts the changes of state.
    epoch: int = 0
    attempt: Attempt | None = None
    progress: PreparationProgress | None = None
    # When the phase that `progress` names began, monotonic.
    phase_began_at: float = 0.0
    waits_for: tuple[str, ...] = ()
    container: Container | None = None
    ready_at: float | None = None
    start_s: float | None = None
    reload_s: float | None = None
    phases: dict[str, Any] = field(default_factory=dict)

    leases: int = 0
    queue: list[object] = field(default_factory=list)
    service_s: float | None = None
    used_at: float | None = None
    keep_alive_s: float | None = None

    # The model's state before a thread claimed it to stop it, which it has again if the stop fails; None: no claim.
    claimed_as: State | None = None
    # Until when the requests in flight may end before the container is stopped, monotonic.
    drains_until: float = 0.0
    stop_not_before: float = 0.0
    # Closed to requests, by a stop, a deletion or a reload.
    stop_requested: bool = False
    # A start is to follow what is under way.
    wants_start: bool = False

    holds: Amount | None = None
    usage: Usage | None = None
    # The largest sample of its working set, of all runs since its entry was changed.
    peak_bytes: int = 0
    drifted: bool = False

    error: OrchestrarError | None = None
    failures: Failures = field(default_factory=Failures)
    # The container that we end because it does not work, and what is wrong with it.
    blame: tuple[str, str] | None = None
    # Its container ended, and we had not stopped it.
    was_lost: bool = False

    @property
    def is_retiring(self) -> bool:
        """Return whether a thread has claimed the model to stop it."""
        return self.claimed_as is not None

    def idle_timeout_s(self) -> float | None:
        """Return how long the model stays when no request uses it: as the last request with a `keep_alive` wants it.

        None means for ever.
        """
        if self.keep_alive_s is None:
            return self.spec.idle_timeout_s or None
        return None if self.keep_alive_s < 0 else self.keep_alive_s

    def idle_deadline(self) -> float | None:
        """Return when the model may be stopped as idle, monotonic; None while it is used or waited for, or never."""
        timeout_s = self.idle_timeout_s()
        if self.state is not State.READY or self.leases or self.queue or timeout_s is None or self.used_at is None:
            return None
        return max(self.used_at + timeout_s, self.stop_not_before)

    def is_due_before(self, moment: float) -> bool:
        """Return whether the idle deadline is before this moment (monotonic)."""
        deadline = self.idle_deadline()
        return deadline is not None and deadline < moment

    def is_idle(self, now: float) -> bool:
        """Return whether the idle deadline has passed."""
        deadline = self.idle_deadline()
        return deadline is not None and deadline <= now

    def take_free_lease(self) -> bool:
        """Take a lease without a ticket if the model is ready and open to requests, none waits, and there is room."""
        if self.stop_requested or self.queue or self.leases >= self.spec.max_concurrency:
            return False
        if not self._may(Event.TAKE_LEASE):
            return False
        self.leases += 1
        return True

    def queue_up(self) -> object | None:
        """Return a ticket for the model's queue; None if the queue is full."""
        if self.leases + len(self.queue) >= self.spec.max_concurrency + self.spec.max_queue:
            return None
        ticket = object()
        self.queue.append(ticket)
        return ticket

    def take_lease(self, ticket: object) -> bool:
        """Turn the ticket into a lease if it is next, the model is ready, and there is room."""
        has_room = self.leases < self.spec.max_concurrency
        if not self._may(Event.TAKE_LEASE) or not has_room or self.queue[0] is not ticket:
            return False
        self.leases += 1
        self.leave_queue(ticket)
        return True

    def leave_queue(self, ticket: object) -> None:
        """Take the ticket out of the queue if it is there."""
        if ticket in self.queue:
            self.queue.remove(ticket)
            self.on_change.notify_all()

    def return_lease(self, taken_at: float, now: float, keep_alive_s: float | None) -> None:
        """Count the lease as returned; `keep_alive_s` replaces the idle timeout unless it is None."""
        self.leases -= 1
        self.used_at = now
        served_s = now - taken_at
        self.service_s = served_s if self.service_s is None else self.service_s + 0.2 * (served_s - self.service_s)
        if keep_alive_s is not None:
            self.keep_alive_s = keep_alive_s
        self.on_change.notify_all()

    def keep_alive(self, seconds: float) -> None:
        """Replace the idle timeout until a request brings another one, or the model stops."""
        self.keep_alive_s = seconds

    def close_to_requests(self, *, only_at_rest: bool = False) -> bool:
        """Refuse requests from now on; False if they are refused already, or if the model has to rest and does not."""
        if self.stop_requested or (only_at_rest and self.state not in RESTING):
            return False
        self.stop_requested = True
        return True

    def open_to_requests(self) -> None:
        """Accept requests again."""
        self.stop_requested = False
        self.on_change.notify_all()

    def forgive(self) -> None:
        """Forget the failures, so that the next request may try at once."""
        self.failures.forgive()

    def may_begin(self, *, adopts: bool) -> bool:
        """Return whether `begin_attempt` would begin an attempt; every request asks."""
        return self._may(Event.ADOPT if adopts else Event.BEGIN)

    def begin_attempt(self, attempt: Attempt, launch: Callable[[], None]) -> bool:
        """Begin this attempt unless the model does not rest; `launch` gives it its thread, and may raise."""
        event = Event.ADOPT if attempt.adopts else Event.BEGIN
        if not self._may(event):
            return False
        launch()
        self._enter(event, State.PREPARING if attempt.only_prepares else State.STARTING)
        self.attempt = attempt
        self.error, self.blame, self.keep_alive_s, self.stop_not_before = None, None, None, 0.0
        return True

    def want_start(self) -> None:
        """Have a start follow the stop or the pull that is under way, if there is one."""
        is_pull = self.attempt is not None and self.attempt.only_prepares
        self.wants_start = self.state is State.DRAINING or is_pull

    def take_wanted_start(self) -> bool:
        """Return whether a start is to follow now that the model rests, and forget that it was."""
        wants_start, self.wants_start = self.wants_start, False
        return wants_start and not self.stop_requested

    def cancel_attempt(self) -> Attempt | None:
        """Tell the attempt under way, if there is one, to end, and return it."""
        if self.attempt is not None:
            self.attempt.cancelled = True
            self.on_change.notify_all()
        return self.attempt

    def supersede_attempt(self, attempt: Attempt) -> bool:
        """Tell this attempt to end because models.yaml changed; False if it is over, or was superseded before."""
        # The first caller has the claim: two of them would stop what the other one starts.
        if attempt.is_over or attempt.is_superseded:
            return False
        attempt.cancelled = attempt.is_superseded = True
        self.on_change.notify_all()
        return True

    def attempt_prepares(self) -> None:
        """Note that the attempt makes the model's files."""
        self._enter(Event.PREPARE, State.PREPARING)
        self._running_attempt().is_prepared = False

    def attempt_comes_up(self) -> None:
        """Note that the attempt has all that a container needs."""
        self._enter(Event.COME_UP, State.STARTING)
        self._running_attempt().is_prepared = True

    def attempt_progresses(self, progress: PreparationProgress, now: float) -> bool:
        """Note how far a preparation is; returns whether that is a new phase."""
        is_new = self.progress is None or self.progress.phase != progress.phase
        self.progress = progress
        if is_new:
            self.phase_began_at = now
        self.on_change.notify_all()
        return is_new

    def attempt_waits_for(self, model_ids: tuple[str, ...]) -> None:
        """Note which models hold the memory that the attempt needs."""
        self.waits_for = model_ids

    def attempt_admitted(self, need: Amount, now: float) -> None:
        """Give the attempt its part of the memory budget."""
        self.count(need)
        self._running_attempt().admitted_at = now

    def count(self, amount: Amount) -> None:
        """Count what the attempt's container takes."""
        self._require(Event.COUNT)
        self.holds = amount

    def count_nothing(self) -> None:
        """Free what is counted: Docker says that nothing of the model runs."""
        self._require(Event.COUNT)
        self.holds = None

    def attempt_ends_prepared(self, resting: State) -> None:
        """End a preparation that succeeded."""
        self._enter(Event.PREPARATION_ENDS, resting)
        self._end_attempt()

    def attempt_finds_nothing(self, resting: State) -> None:
        """End an adoption whose container had ended before."""
        self._enter(Event.FIND_NOTHING, resting)
        self._end_attempt()
        self.container = None

    def attempt_becomes_ready(self, container: Container, phases: dict[str, Any], now: float) -> float:
        """End a start that succeeded; returns the seconds that it took."""
        self._enter(Event.BECOME_READY, State.READY)
        attempt = self._end_attempt()
        self.container, self.phases, self.error = container, phases, None
        self.ready_at = self.used_at = now
        if attempt.admitted_at is not None:
            self.reload_s = now - attempt.admitted_at
        self.failures.became_ready()
        self.was_lost = False
        self.start_s = now - attempt.started_at
        return self.start_s

    def count_failed_start(self, now: float, jitter: Callable[[], float]) -> float:
        """Count a failure of the model's own; returns how long the model is left alone for it."""
        self.failures.start_failed(now, jitter)
        return self.failures.retry_in_s(now)

    def attempt_fails(self, error: OrchestrarError, *, resting: State, may_run: bool, is_closing: bool) -> bool:
        """End an attempt that failed; returns False if the model has to be stopped next, by `retire`.

        `may_run`: a container may run all the same, and is counted until a look at Docker.
        """
        attempt = self._running_attempt()
        if attempt.is_superseded and not is_closing:
            before = self.state
            self._enter(Event.FAIL_AS_CHANGED, State.DRAINING)
            self._end_attempt(error)
            self.claimed_as, self.container = before, None
            attempt.leaves_claim = True
            self.wants_start |= not attempt.only_prepares
            return False
        # Then nothing of the model's own has failed.
        is_as_before = attempt.cancelled or isinstance(error, NoRoom)
        self._enter(Event.FAIL, resting if is_as_before else State.FAILED)
        self._end_attempt(error)
        self.container = None
        self.wants_start = False
        self.holds = self.holds if may_run else None
        self.error = None if is_as_before else attempt.error
        return True

    def make_room(self) -> None:
        """Have the model leave its memory to another one once its requests in flight have ended."""
        self._enter(Event.MAKE_ROOM, State.DRAINING)

    def claim_to_make_room(self, *, is_wanted: bool) -> bool:
        """Claim the model that makes room, unless another thread stops it; it serves on if its room is not wanted."""
        if not self._may(Event.KEEP_ROOM) or self.stop_requested or self.is_retiring:
            return False
        if self.leases or not is_wanted:
            self._enter(Event.KEEP_ROOM, State.READY)
            self.wants_start = False
            return False
        self.claim()
        return True

    def claim(self) -> None:
        """Take the right to stop the model, until it comes to rest or its stop fails."""
        if self.is_retiring:
            raise IllegalEvent(f"{self.spec.id} is claimed already")
        # A model that makes room for another one was ready before.
        before = State.READY if self.state is State.DRAINING else self.state
        self._enter(Event.CLAIM, State.DRAINING)
        self.claimed_as = before

    def claim_if_idle(self, now: float) -> bool:
        """Claim the model if its idle deadline has passed."""
        if not self.is_idle(now):
            return False
        self.claim()
        return True

    def claim_if_outdated(self, outdated_id: str | None, *, serves: bool) -> bool:
        """Claim the model if it is still, or may be, what it was before its entry changed, and is not being stopped.

        A start follows the stop if it `serves`.
        """
        # Of a model without a container a stop that failed, or a start, may have left something.
        is_outdated = self.container.id == outdated_id if self.container is not None else self.holds is not None
        if not is_outdated or self.stop_requested:
            return False
        self.claim()
        self.wants_start |= serves
        return True

    def drain_until(self, deadline: float) -> None:
        """Note until when the requests in flight may end before the container is stopped."""
        self.drains_until = deadline

    def come_to_rest(self, resting: State) -> None:
        """Note that the claimed model was stopped."""
        self._enter(Event.COME_TO_REST, resting)
        self._forget_run()
        self.holds = None

    def stop_fails(self, *, resting: State, is_gone: bool) -> bool:
        """Note that the stop failed, after it had ended what served if `is_gone`; returns whether the model rests now.

        Otherwise it serves on. What is counted for it stays so until a look at Docker: another container may run.
        """
        if self.claimed_as is None:
            raise IllegalEvent(f"{self.spec.id} is {self.state.value}: no thread has claimed it")
        if self.claimed_as in SERVING and not is_gone:
            self._enter(Event.FAIL_TO_STOP, self.claimed_as)
            # What had to be started after the stop serves already.
            self.claimed_as, self.wants_start = None, False
            return False
        has_failed = self.claimed_as is State.FAILED and not is_gone
        self._enter(Event.FAIL_TO_STOP, State.FAILED if has_failed else resting)
        self._forget_run()
        return True

    def postpone_stop(self, until: float) -> None:
        """Leave the model as it is until then, at least: it could not be stopped."""
        self.stop_not_before = max(self.stop_not_before, until)

    def files_change(self, resting: State) -> None:
        """Note what a model at rest is now that its files were deleted or made."""
        self._enter(Event.FILES_CHANGE, resting)

    def follow(
        self, container: Container | None, death: ModelDied | None, *, now: float, jitter: Callable[[], float]
    ) -> Finding:
        """Make the record follow what Docker says of the model's container, and return what that means.

        `death` is why the container ended, unless a user stopped it.
        """
        if self.stop_requested or not self._may(Event.LOOK):
            return Finding.NOTHING
        if container is not None and container.status == "paused":
            return self._pause(container)
        if self.state in SERVING:
            if container is None or not container.running:
                self._die(death, now, jitter)
                return Finding.END
            if self.state is State.PAUSED or self.container is None or not container.is_same_run(self.container):
                return Finding.RUNS
            self.container = container
        elif container is not None and container.status == "running":
            return Finding.RUNS
        elif self.holds is not None:
            self.holds = None
            return Finding.FREE
        return Finding.NOTHING

    def _pause(self, container: Container) -> Finding:
        is_new = self.state is not State.PAUSED
        if is_new:
            self._enter(Event.PAUSE, State.PAUSED)
            self.ready_at = self.error = None
        self.container = container
        return Finding.PAUSED if is_new else Finding.NOTHING

    def _die(self, death: ModelDied | None, now: float, jitter: Callable[[], float]) -> None:
        self._require(Event.DIE)
        served_s = now - self.ready_at if self.ready_at is not None else 0.0
        if death is not None:
            self.failures.died(now, served_s=served_s, jitter=jitter)
        self._enter(Event.DIE, State.FAILED if self.failures.retry_in_s(now) else State.STOPPED)
        self.container = self.ready_at = self.holds = None
        self.error = death
        self.was_lost = True

    def blame_container(self, container_id: str, reason: str) -> None:
        """Note that we end this container because it does not work."""
        self.blame = (container_id, reason)

    def measure(self, usage: Usage | None) -> None:
        """Note a sample of what the model uses; None if it does not run."""
        self.usage = usage
        self.peak_bytes = max(self.peak_bytes, usage.memory_bytes if usage else 0)

    def mark_drifted(self, *, drifted: bool) -> None:
        """Note whether the container differs from what the Compose files and images are now."""
        self.drifted = drifted

    def recount(self, need: Amount) -> bool:
        """Count what the model takes, as it is known now, if it runs."""
        if not self._may(Event.RECOUNT) or self.container is None:
            return False
        self.holds = need
        return True

    def change_entry(self, entry: ModelSpec, spec: ModelSpec) -> None:
        """Work by this entry of models.yaml from now on; what was measured and what failed was another's."""
        self.entry, self.spec, self.peak_bytes = entry, spec, 0
        self.forgive()
        self.on_change.notify_all()

    def decide_engine(self, entry: ModelSpec, spec: ModelSpec) -> bool:
        """Work with the engine that the model's files have decided; False if its entry is not this one any more."""
        if self.entry is not entry:
            return False
        self.spec = spec
        self.on_change.notify_all()
        return True

    def _next_states(self, event: Event) -> frozenset[State]:
        next_states = TRANSITIONS.get((self.state, event))
        if next_states is None:
            raise IllegalEvent(f"{self.spec.id} is {self.state.value}: {event.name} cannot happen ({event.value})")
        return next_states

    def _may(self, event: Event) -> bool:
        """Return whether the event changes anything in this state; raises IllegalEvent if it must not happen."""
        return bool(self._next_states(event))

    def _require(self, event: Event) -> None:
        if not self._may(event):
            raise IllegalEvent(f"{self.spec.id} is {self.state.value}: {event.name} means nothing ({event.value})")

    def _enter(self, event: Event, state: State) -> None:
        """Change the state and wake all threads that wait for a change; the lock lets them see the whole change."""
        if state not in self._next_states(event):
            raise IllegalEvent(f"{self.spec.id} is {self.state.value}: {event.name} does not lead to {state.value}")
        self.state = state
        self.epoch += 1
        self.on_change.notify_all()

    def _running_attempt(self) -> Attempt:
        if self.attempt is None:
            raise IllegalEvent(f"{self.spec.id} is {self.state.value}: no attempt is under way")
        return self.attempt

    def _end_attempt(self, error: OrchestrarError | None = None) -> Attempt:
        attempt = self._running_attempt()
        # A copy: each waiter raises its own, and the thread's own keeps its frames.
        attempt.error, attempt.is_over = copy.copy(error), True
        self.attempt = self.progress = None
        self.peak_bytes = max(self.peak_bytes, attempt.peak_bytes)
        return attempt

    def _forget_run(self) -> None:
        """Forget what belonged to the run that has ended, and the claim."""
        self.container = self.ready_at = self.keep_alive_s = self.usage = self.claimed_as = None
        self.was_lost = False


class SlotTable:
    """All records. An iteration sees the table as it was at its beginning: a change makes a new one. Thread-safe."""

    def __init__(
        self,
        lock: threading.Lock,
        resting_state: Callable[[str], State],
        decided: Callable[[ModelSpec], ModelSpec],
    ) -> None:
        self._lock = lock
        self._resting_state = resting_state
        self._decided = decided
        self._slots: dict[str, Slot] = {}

    def __getitem__(self, model_id: str) -> Slot:
        slot = self._slots.get(model_id)
        if slot is None:
            raise ModelNotFound(f"{model_id} was removed from models.yaml", param="model_id")
        return slot

    def __contains__(self, model_id: str) -> bool:
        return model_id in self._slots

    def values(self) -> Collection[Slot]:
        """Return the records in the registry's order."""
        return self._slots.values()

    def serving(self) -> list[Container]:
        """Return the containers of ready models. With the lock held."""
        return [s.container for s in self._slots.values() if s.container is not None and s.state is State.READY]

    def replace(self, specs: Iterable[ModelSpec]) -> None:
        """Have one record for each of these entries, in this order; records that stay keep all but their entry.

        Called without the lock. The caller has stopped models that are removed, and closed them to requests.
        """
        entries = [(entry, self._decided(entry)) for entry in specs]
        fresh = {
            entry.id: Slot(entry, spec, threading.Condition(self._lock), self._resting_state(entry.id))
            for entry, spec in entries
            if entry.id not in self._slots
        }
        with self._lock:
            for entry, spec in entries:
                slot = self._slots.get(entry.id)
                if slot is not None and slot.entry != entry:
                    slot.change_entry(entry, spec)
            self._slots = {entry.id: self._slots.get(entry.id) or fresh[entry.id] for entry, _ in entries}
