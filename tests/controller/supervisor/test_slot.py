"""A model's record: its table of states and events, and that nothing else changes it."""

from __future__ import annotations

import ast
import threading
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from controller.errors import ModelStopping, OrchestrarError, StartFailed
from controller.settings import ROOT
from controller.supervisor.backend import Amount
from controller.supervisor.failures.backoff import Failures
from controller.supervisor.slot import Slot
from controller.supervisor.starts.attempt import Attempt
from controller.supervisor.states import RESTING, SERVING, TRANSITIONS, UNDER_WAY, Event, Finding, IllegalEvent, State
from tests.fakes import make_container, make_spec

NOW = 1000.0
AMOUNT = Amount(memory_bytes=1)
RUNNING = make_container()
FAILURE = StartFailed("it did not start")


@pytest.fixture(autouse=True)
def no_illegal_event() -> None:
    """Let illegal events happen here: these tests cause them."""


def slot_in(state: State) -> Slot:
    """Build a record as it is in this state, with its lock open_lease."""
    lock = threading.Lock()
    lock.acquire()
    return Slot(
        make_spec("tiny"),
        make_spec("tiny"),
        threading.Condition(lock),
        state,
        attempt=Attempt(NOW) if state in UNDER_WAY else None,
        container=RUNNING if state in {*SERVING, State.DRAINING} else None,
        claimed_as=State.READY if state is State.DRAINING else None,
    )


def begin(slot: Slot, **values: Any) -> bool:
    return slot.begin_attempt(Attempt(NOW, **values), launch=lambda: None)


def fail(slot: Slot, *, error: OrchestrarError = FAILURE, resting: State = State.STOPPED, **values: Any) -> bool:
    if slot.attempt is not None:
        slot.attempt = replace(slot.attempt, **values)
    return slot.attempt_fails(error, resting=resting, may_run=False, is_closing=False)


def look(slot: Slot) -> bool:
    return slot.follow(slot.container, None, now=NOW, jitter=lambda: 0.5) is not Finding.NOTHING


def claim(slot: Slot) -> None:
    slot.claimed_as = None
    slot.claim()


def keep_room(slot: Slot) -> bool:
    slot.claimed_as = None
    before = slot.epoch
    return slot.claim_to_make_room(is_wanted=False) or slot.epoch > before


def fail_to_stop(before: State, resting: State = State.STOPPED) -> Callable[[Slot], object]:
    def act(slot: Slot) -> bool:
        slot.claimed_as = slot.claimed_as and before
        return slot.stop_fails(resting=resting, is_gone=False)

    return act


def take_lease(slot: Slot) -> bool:
    ticket = slot.queue_up()
    is_lease = slot.take_lease(ticket)
    slot.leave_queue(ticket)
    return is_lease


def die(slot: Slot, *, is_backing_off: bool = False) -> None:
    slot.failures = Failures(retry_at=NOW + 1 if is_backing_off else 0.0)
    slot._die(None, NOW, lambda: 0.5)


# Each event's ways to happen: between them they lead to every state that the table allows.
ACTS: dict[Event, tuple[Callable[[Slot], object], ...]] = {
    Event.BEGIN: (begin, lambda slot: begin(slot, only_prepares=True)),
    Event.ADOPT: (lambda slot: begin(slot, adopts=True),),
    Event.PREPARE: (Slot.attempt_prepares,),
    Event.COME_UP: (Slot.attempt_comes_up,),
    Event.COUNT: (lambda slot: slot.count(AMOUNT), Slot.count_nothing, lambda slot: slot.attempt_admitted(AMOUNT, NOW)),
    Event.PREPARATION_ENDS: (
        lambda slot: slot.attempt_ends_prepared(State.STOPPED),
        lambda slot: slot.attempt_ends_prepared(State.ABSENT),
    ),
    Event.BECOME_READY: (lambda slot: slot.attempt_becomes_ready(RUNNING, {}, NOW),),
    Event.FIND_NOTHING: (
        lambda slot: slot.attempt_finds_nothing(State.STOPPED),
        lambda slot: slot.attempt_finds_nothing(State.ABSENT),
    ),
    Event.FAIL: (
        fail,
        lambda slot: fail(slot, cancelled=True),
        lambda slot: fail(slot, cancelled=True, resting=State.ABSENT),
    ),
    Event.FAIL_AS_CHANGED: (lambda slot: fail(slot, error=ModelStopping("it changed"), is_superseded=True),),
    Event.MAKE_ROOM: (Slot.make_room,),
    Event.KEEP_ROOM: (keep_room,),
    Event.CLAIM: (claim,),
    Event.COME_TO_REST: (
        lambda slot: slot.come_to_rest(State.STOPPED),
        lambda slot: slot.come_to_rest(State.ABSENT),
    ),
    Event.FAIL_TO_STOP: (
        fail_to_stop(State.READY),
        fail_to_stop(State.PAUSED),
        fail_to_stop(State.FAILED),
        fail_to_stop(State.STOPPED),
        fail_to_stop(State.STOPPED, State.ABSENT),
    ),
    Event.LOOK: (look,),
    Event.PAUSE: (lambda slot: slot._pause(make_container(status="paused")),),
    Event.DIE: (die, lambda slot: die(slot, is_backing_off=True)),
    Event.FILES_CHANGE: (
        lambda slot: slot.files_change(State.STOPPED),
        lambda slot: slot.files_change(State.ABSENT),
    ),
    Event.TAKE_LEASE: (take_lease, Slot.take_free_lease),
    Event.RECOUNT: (lambda slot: slot.recount(AMOUNT),),
}
PAIRS = [(state, event) for state in State for event in Event]


def values_of(slot: Slot) -> dict[str, Any]:
    """Return every field of the record and of its attempt, copied so that a change of the record shows."""
    values = {name: list(value) if isinstance(value, list) else value for name, value in vars(slot).items()}
    return {**values, "failures": vars(slot.failures).copy(), "attempt": vars(slot.attempt or Attempt(0)).copy()}


def test_every_event_has_its_acts() -> None:
    """The walk below leaves no event out."""
    assert set(ACTS) == set(Event)


@pytest.mark.parametrize(("state", "event"), PAIRS, ids=lambda value: value.name.lower())
def test_the_record_follows_the_table(state: State, event: Event) -> None:
    """An event leads to the states that the table says, to each of them; or changes nothing; or is refused."""
    next_states = TRANSITIONS.get((state, event))
    states = set()
    for act in ACTS[event]:
        slot = slot_in(state)
        before = values_of(slot)
        if next_states is None:
            with pytest.raises(IllegalEvent):
                act(slot)
            _assert_unchanged(slot, before)
        elif not next_states:
            assert not act(slot)
            _assert_unchanged(slot, before)
        else:
            act(slot)
            states.add(slot.state)
    assert states == (next_states or set())


def _assert_unchanged(slot: Slot, before: dict[str, Any]) -> None:
    after = values_of(slot)
    # What an act itself has set to bring the record into the right form.
    for name in ("claimed_as", "attempt", "failures"):
        del before[name], after[name]
    assert after == before


def test_a_claim_is_exclusive() -> None:
    """Two threads that stop one model would stop what the other one starts."""
    slot = slot_in(State.READY)
    slot.claim()
    with pytest.raises(IllegalEvent):
        slot.claim()


def test_a_thread_that_cannot_be_had_changes_nothing() -> None:
    """The record is as it was if the system has no thread for a start."""

    def launch() -> None:
        raise RuntimeError("can't start new thread")

    slot = slot_in(State.STOPPED)
    before = values_of(slot)
    with pytest.raises(RuntimeError):
        slot.begin_attempt(Attempt(NOW), launch)
    assert values_of(slot) == before


def test_an_attempt_is_under_way_exactly_while_the_state_says_so() -> None:
    """A start and its end change both at once."""
    slot = slot_in(State.STOPPED)
    assert begin(slot)
    assert (slot.state, slot.attempt is not None) == (State.STARTING, True)
    assert fail(slot)
    assert (slot.state, slot.attempt) == (State.FAILED, None)


# Who changes a record, or an attempt.
HOMES = {"controller/supervisor/slot.py", "controller/supervisor/starts/attempt.py"}
FIELDS = {field.name for field in (*fields(Slot), *fields(Attempt))}
# Calls that change the value of a field in place, and those that only `Slot` makes.
MUTATORS = {"append", "remove", "pop", "clear", "insert", "extend", "update", "setdefault"}
FAILURE_EVENTS = {"start_failed", "died", "became_ready", "forgive"}


def targets(node: ast.AST) -> Iterator[ast.expr]:
    """Yield what a statement assigns to, or deletes."""
    if isinstance(node, ast.Assign | ast.Delete):
        pending = list(node.targets)
    elif isinstance(node, ast.AugAssign | ast.AnnAssign | ast.For | ast.NamedExpr):
        pending = [node.target]
    elif isinstance(node, ast.withitem) and node.optional_vars is not None:
        pending = [node.optional_vars]
    else:
        return
    while pending:
        target = pending.pop()
        if isinstance(target, ast.Tuple | ast.List):
            pending += target.elts
        else:
            yield target.value if isinstance(target, ast.Subscript | ast.Starred) else target


def is_field(node: ast.AST) -> bool:
    """Return whether this is a field of another object that is called as one of a record's."""
    is_own = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"
    return isinstance(node, ast.Attribute) and node.attr in FIELDS and not is_own


def changes_of_records(source: str) -> Iterator[int]:
    """Yield the lines in which a field of a record or an attempt is assigned to, deleted or changed in place."""
    for node in ast.walk(ast.parse(source)):
        if any(is_field(target) for target in targets(node)):
            yield node.lineno  # type: ignore[attr-defined]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and is_field(node.func.value):
            is_failure = node.func.attr in FAILURE_EVENTS and ast.unparse(node.func.value).endswith("failures")
            if node.func.attr in MUTATORS or is_failure:
                yield node.lineno
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("setattr", "object.__setattr__"):
            yield node.lineno


def test_only_the_record_changes_itself() -> None:
    """No other file of the supervisor assigns to a field of a record, or changes its value in place."""
    places = {
        f"{file.relative_to(ROOT)}:{line}"
        for file in sorted((ROOT / "controller" / "supervisor").rglob("*.py"))
        for line in changes_of_records(file.read_text(encoding="utf-8"))
        if str(file.relative_to(ROOT)) not in HOMES
    }
    assert places == set()


def test_no_other_folder_knows_the_record() -> None:
    """What cannot be named cannot be changed: outside the supervisor there are only views of it."""
    importers = {
        str(file.relative_to(ROOT))
        for file in (ROOT / "controller").rglob("*.py")
        if "controller.supervisor.slot" in file.read_text(encoding="utf-8")
        and Path("controller/supervisor") not in file.relative_to(ROOT).parents
    }
    assert importers == set()


@pytest.mark.parametrize(
    "source",
    [
        "slot.state = 1",
        "slot.leases += 1",
        "slot.error, slot.blame = None, None",
        "self._slot.holds = None",
        "slot.attempt.cancelled = True",
        "slot.queue.append(1)",
        "slot.phases['a'] = 1",
        "slot.failures.forgive()",
        "del slot.container",
        "setattr(slot, 'state', 1)",
        "self._slots['tiny'].stop_requested = True",
    ],
)
def test_a_change_from_outside_is_found(source: str) -> None:
    """Whatever form it takes."""
    assert list(changes_of_records(source)) == [1]


@pytest.mark.parametrize("source", ["self.error = 1", "state = slot.state", "slot.claim()", "view.name = 1"])
def test_reads_and_calls_are_no_changes(source: str) -> None:
    """Nor are other objects' fields."""
    assert list(changes_of_records(source)) == []


def test_resting_states_take_no_leases() -> None:
    """Only a ready model has them; a ticket stays in the queue otherwise."""
    for state in RESTING:
        slot = slot_in(state)
        ticket = slot.queue_up()
        assert not slot.take_lease(ticket)
        assert [ticket] == slot.queue


def test_a_free_lease_passes_no_ticket() -> None:
    """A lease is free only while no ticket waits, there is room, and the model is open to requests."""
    slot = slot_in(State.READY)
    ticket = slot.queue_up()
    assert not slot.take_free_lease()
    slot.leave_queue(ticket)
    slot.leases = slot.spec.max_concurrency
    assert not slot.take_free_lease()
    slot.leases = 0
    slot.close_to_requests()
    assert not slot.take_free_lease()
    slot.open_to_requests()
    assert slot.take_free_lease()
    assert 1 == slot.leases
