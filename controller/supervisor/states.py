"""The states of a model and the events that lead from one to another, as a table that `slot.Slot` consults."""

from __future__ import annotations

from enum import Enum, StrEnum


class State(StrEnum):
    """A model's state: `absent → preparing → stopped → starting → ready → draining → stopped`, `failed`, or `paused` by
    hand."""

    ABSENT = "absent"
    PREPARING = "preparing"
    STOPPED = "stopped"
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"
    PAUSED = "paused"


class Event(Enum):
    """What happens to a model, as far as its state decides whether it may happen and what follows."""

    BEGIN = "a start or a preparation begins"
    ADOPT = "the start of a container that we found running begins"
    PREPARE = "the start makes the model's files"
    COME_UP = "the start has a container, or is about to create one"
    COUNT = "the start takes or returns its part of the memory budget"
    PREPARATION_ENDS = "a preparation without a start succeeds"
    BECOME_READY = "the start succeeds"
    FIND_NOTHING = "the container to adopt has ended"
    FAIL = "the start or the preparation fails"
    FAIL_AS_CHANGED = "the start ends because models.yaml changed, and its container is to be stopped"
    MAKE_ROOM = "the model has to leave its memory to another one, after the requests in flight"
    KEEP_ROOM = "the other model does not need that memory any more"
    CLAIM = "a thread takes the right to stop the model"
    COME_TO_REST = "the stop succeeds"
    FAIL_TO_STOP = "the stop fails"
    LOOK = "Docker says what became of the model's container"
    PAUSE = "a user paused the container"
    DIE = "the container ended, and we did not stop it"
    FILES_CHANGE = "the model's files were deleted or made"
    TAKE_LEASE = "a request wants to use the model"
    RECOUNT = "more is known of the memory that the running model takes"


RESTING = frozenset({State.ABSENT, State.STOPPED, State.FAILED})
AT_REST = frozenset({State.ABSENT, State.STOPPED})
UNDER_WAY = frozenset({State.PREPARING, State.STARTING})
SERVING = frozenset({State.READY, State.PAUSED})
EVERY = frozenset(State)
NO_OP: frozenset[State] = frozenset()

# An event, the states in which it may happen, and the states to which it may lead. NO_OP means that the event changes
# nothing in those states, None that they stay while something else changes. A pair of state and event that has no row
# cannot happen.
_ROWS: tuple[tuple[Event, frozenset[State], frozenset[State] | None], ...] = (
    (Event.BEGIN, RESTING, UNDER_WAY),
    (Event.BEGIN, EVERY - RESTING, NO_OP),
    (Event.ADOPT, RESTING | SERVING, frozenset({State.STARTING})),
    (Event.PREPARE, UNDER_WAY, frozenset({State.PREPARING})),
    (Event.COME_UP, UNDER_WAY, frozenset({State.STARTING})),
    (Event.COUNT, UNDER_WAY, None),
    (Event.PREPARATION_ENDS, frozenset({State.PREPARING}), AT_REST),
    (Event.BECOME_READY, frozenset({State.STARTING}), frozenset({State.READY})),
    (Event.FIND_NOTHING, frozenset({State.STARTING}), AT_REST),
    (Event.FAIL, UNDER_WAY, RESTING),
    (Event.FAIL_AS_CHANGED, UNDER_WAY, frozenset({State.DRAINING})),
    (Event.MAKE_ROOM, frozenset({State.READY}), frozenset({State.DRAINING})),
    (Event.KEEP_ROOM, frozenset({State.DRAINING}), frozenset({State.READY})),
    (Event.KEEP_ROOM, EVERY - {State.DRAINING}, NO_OP),
    (Event.CLAIM, RESTING | SERVING | {State.DRAINING}, frozenset({State.DRAINING})),
    (Event.COME_TO_REST, frozenset({State.DRAINING}), AT_REST),
    (Event.FAIL_TO_STOP, frozenset({State.DRAINING}), RESTING | SERVING),
    (Event.LOOK, RESTING | SERVING, None),
    (Event.LOOK, UNDER_WAY | {State.DRAINING}, NO_OP),
    (Event.PAUSE, RESTING | SERVING, frozenset({State.PAUSED})),
    (Event.DIE, SERVING, frozenset({State.STOPPED, State.FAILED})),
    (Event.FILES_CHANGE, RESTING, AT_REST),
    (Event.TAKE_LEASE, frozenset({State.READY}), None),
    (Event.TAKE_LEASE, EVERY - {State.READY}, NO_OP),
    (Event.RECOUNT, SERVING, None),
    (Event.RECOUNT, EVERY - SERVING, NO_OP),
)
TRANSITIONS: dict[tuple[State, Event], frozenset[State]] = {
    (state, event): frozenset({state}) if to is None else to for event, states, to in _ROWS for state in states
}


class IllegalEvent(AssertionError):
    """An event happened in a state in which it cannot: a mistake in the supervisor's code."""


class Finding(Enum):
    """What a look at Docker means for a model."""

    NOTHING = "nothing new, or another thread is at work on the model"
    PAUSED = "a user has paused the container"
    END = "the container has ended"
    RUNS = "a container runs that we have to adopt"
    FREE = "what was counted for the model is free"
