"""Gives starts their part of the memory budget, in order, and stops other models if there is no room."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum

from controller.errors import Cancelled, NoRoom
from controller.supervisor.backend import Amount, Backend
from controller.supervisor.clock import Clock
from controller.supervisor.memory.placement import Holder, Placement, place
from controller.supervisor.memory.plan import Plan
from controller.supervisor.metrics import Metrics
from controller.supervisor.slot import Slot
from controller.supervisor.starts.attempt import Attempt
from controller.supervisor.states import RESTING, State
from controller.system.sizes import MIB

log = logging.getLogger(__name__)

# Free memory can grow without our knowledge: other programs hold memory, too.
LOOK_ANYWAY_S = 5.0
# A request may come for a model that starts unasked.
LOOK_FOR_REQUESTS_S = 1.0
# The requests that wait for the start came when it began: they get `deadline_exceeded` before the start fails.
WAITERS_FIRST_S = 1.0


class Step(Enum):
    """The outcome of one look at the room."""

    ADMITTED = "admitted"
    AGAIN = "look again"
    WOULD_EVICT = "would evict"


class Admission:
    """The memory budget of all models. `lock` is the supervisor's; `nudge` runs with it held, the others without."""

    def __init__(
        self,
        slots: Callable[[], Iterable[Slot]],
        backend: Backend,
        clock: Clock,
        lock: threading.Lock,
        make_room: Callable[[Slot, Callable[[], bool]], None],
        metrics: Metrics,
    ) -> None:
        self._metrics = metrics
        self._slots = slots
        self._backend = backend
        self._clock = clock
        self._lock = lock
        self._make_room = make_room
        self.waiting: list[Slot] = []
        self._spare: dict[Slot, Amount] = {}

    def admit(self, slot: Slot, attempt: Attempt, is_closing: Callable[[], bool]) -> None:
        """Give the model its part of the budget; blocks until there is room.

        Raises NoRoom if there can never be room, if no request waits for the model any more, or if there was no room
        for `max_wait` and a moment: models that had to make room serve on then. Raises Cancelled, and a Docker error if
        other models would have to be stopped and Docker does not answer.
        """
        need = self._backend.needs(slot.spec.id)
        asked_at = self._clock.monotonic()
        with self._lock:
            self.waiting.append(slot)
        try:
            while (step := self._try(slot, attempt, need, asked_at, is_closing)) is not Step.ADMITTED:
                if step is Step.WOULD_EVICT:
                    # No model is closed to requests for a start that Docker cannot do.
                    self._backend.find(slot.spec.id)
                    attempt.allow_eviction()
        finally:
            with self._lock:
                self.waiting.remove(slot)
                self._spare.pop(slot, None)
                slot.attempt_waits_for(())
                self._wake_all()

    def hold(self, slot: Slot, limit_bytes: int | None) -> None:
        """Count what runs, or was brought up, for an attempt, whether there is room or not."""
        amount = self._backend.needs(slot.spec.id, limit_bytes=limit_bytes)
        with self._lock:
            slot.count(amount)

    def nudge(self) -> None:
        """Wake the starts that wait for room: a model that holds memory became idle, or has ended."""
        for slot in self.waiting:
            slot.on_change.notify_all()

    def room(self) -> Amount:
        """Return what there is for all models together."""
        with self._lock:
            shares = [_UsedShare.of(slot) for slot in self._slots() if slot.holds is not None]
        used_bytes = 0
        for share in shares:
            measured_bytes = None if share.container_id is None else self._backend.working_set(share.container_id)
            used_bytes += share.assumed_bytes if measured_bytes is None else measured_bytes
        return self._backend.room(used_bytes)

    def plan(self, slot: Slot) -> Plan:
        """Return what a start of the model would come to now; raises like the backend's `room`."""
        need, room = self._backend.needs(slot.spec.id), self.room()
        with self._lock:
            holders = self._other_holders(slot)
            return Plan(
                model_id=slot.spec.id,
                state=slot.state,
                need=need,
                room=room,
                holders=tuple(holders),
                placement=place(need, holders, room),
            )

    def _other_holders(self, slot: Slot) -> list[Holder]:
        """Return every other model that holds a part of the budget."""
        now = self._clock.monotonic()
        return [_holder(other, now) for other in self._slots() if other.holds is not None and other is not slot]

    def _try(self, slot: Slot, attempt: Attempt, need: Amount, asked_at: float, is_closing: Callable[[], bool]) -> Step:
        """Take the model's place, make other models go, or wait until something changes."""
        room = self.room()
        with self._lock:
            if is_closing() or attempt.cancelled:
                raise Cancelled(f"the start of {slot.spec.id} was cancelled while it waited for memory")
            now = self._clock.monotonic()
            placement = place(need, self._other_holders(slot), room, waited_s=now - asked_at)
            if placement.fits and self._passes(slot, need):
                slot.attempt_admitted(need, now)
                return Step.ADMITTED
            if placement.impossible:
                raise no_room(slot, need, room, placement)
            slot.attempt_waits_for(tuple(holder.model_id for holder in placement.victims) or placement.waits_for)
            # No model makes room for requests that have left, or is closed to its own for longer than a request waits.
            left_s = asked_at + slot.spec.max_wait_s - now
            if not attempt.is_unasked:
                left_s = left_s + WAITERS_FIRST_S if slot.queue else 0.0
            if left_s <= 0:
                raise no_room(slot, need, room, placement)
            is_patient = _is_patient(slot)
            if self._order()[0] is slot:
                self._spare[slot] = placement.spare
                if placement.victims and placement.look_again_in_s <= 0 and not is_patient:
                    if not attempt.use_eviction():
                        return Step.WOULD_EVICT
                    self._evict(slot, [holder.model_id for holder in placement.victims])
            wait_s = min(placement.look_again_in_s or LOOK_ANYWAY_S, LOOK_ANYWAY_S)
            self._clock.wait(slot.on_change, min(LOOK_FOR_REQUESTS_S if is_patient else wait_s, left_s))
        return Step.AGAIN

    def _passes(self, slot: Slot, need: Amount) -> bool:
        """Return whether the model takes nothing that was freed for one that has waited longer."""
        order = self._order()
        ahead = order[: order.index(slot)]
        return all(other in self._spare and self._spare[other].covers(need) for other in ahead)

    def _order(self) -> list[Slot]:
        """Return the models that wait, the next one first: those that no request waits for come last."""
        return sorted(self.waiting, key=_is_patient)

    def _evict(self, slot: Slot, victims: list[str]) -> None:
        """Have each victim end its requests, accept no new ones, and stop, unless the place is not needed any more."""
        for victim in self._slots():
            if victim.spec.id in victims:
                log.info("%s: stops to make room for %s", victim.spec.id, slot.spec.id)
                name = f"evict {victim.spec.id}"
                is_wanted = lambda: slot in self.waiting  # noqa: E731
                # The thread waits for the lock that we hold; if the system gives us none, no model is closed.
                threading.Thread(target=self._make_room, args=(victim, is_wanted), name=name, daemon=True).start()
                victim.make_room()
                self._metrics.count_eviction(victim.spec.id)

    def _wake_all(self) -> None:
        for slot in self._slots():
            slot.on_change.notify_all()


@dataclass(frozen=True)
class _UsedShare:
    """How much of a model's part of the budget it uses already: its container is measured, or this is assumed."""

    container_id: str | None
    assumed_bytes: int

    @classmethod
    def of(cls, slot: Slot) -> _UsedShare:
        if slot.container is not None and slot.holds is not None:
            return cls(slot.container.id, slot.holds.memory_bytes if slot.usage is None else slot.usage.memory_bytes)
        # A model that starts uses next to nothing yet, as far as we know.
        return cls(None if slot.attempt is None else slot.attempt.container_id, 0)


def _is_patient(slot: Slot) -> bool:
    """Return whether the model starts unasked: no other model stops for it, and no request waits for it."""
    return slot.attempt is not None and slot.attempt.preloads and not slot.queue


def _holder(slot: Slot, now: float) -> Holder:
    assert slot.holds is not None
    stays = None
    if slot.state is not State.READY:
        stays = f"is {slot.state.value}"
    elif slot.stop_requested or slot.stop_not_before > now:
        stays = "is being stopped" if slot.stop_requested else "could not be stopped a moment ago"
    return Holder(
        model_id=slot.spec.id,
        holds=slot.holds,
        # A container of a model at rest may run all the same: a look at Docker finds it, and frees its part.
        pinned=slot.spec.pinned and slot.state not in RESTING,
        in_use=bool(slot.leases or slot.queue),
        leaves=slot.state is State.DRAINING,
        stays=stays,
        idle_s=0.0 if slot.used_at is None else now - slot.used_at,
        resident_s=0.0 if slot.ready_at is None else now - slot.ready_at,
        min_residency_s=slot.spec.min_residency_s,
        reload_s=slot.reload_s,
    )


def no_room(slot: Slot, need: Amount, room: Amount, placement: Placement) -> NoRoom:
    """Return the error that names what holds the memory, and what can be done."""
    demand = f"{slot.spec.id} needs {need.memory_bytes // MIB} MiB of the {room.memory_bytes // MIB} MiB for models"
    if need.gpus:
        demand += f" and {need.gpus} of {'an unknown number of' if room.gpus is None else room.gpus} GPUs"
    names = [holder.model_id for holder in placement.held_by] or list(placement.waits_for)
    names = names or [holder.model_id for holder in placement.victims]
    if placement.impossible and names:
        reason = f"{', '.join(names)} holds them and is pinned; stop it (POST /stop) or take `pinned` away"
    elif placement.impossible:
        reason = "no other model's stop would give it that; lower its resources.memory, or raise memory_budget"
    else:
        reason = f"{', '.join(names)} did not become free in time; try again, or stop it (POST /stop)"
    details = {
        "needed_bytes": need.memory_bytes,
        "budget_bytes": room.memory_bytes,
        "held_by": names,
    }
    # When a victim may go is known; when other models will is not.
    retry_after_s = max(placement.look_again_in_s, 1.0) if placement.victims else 10.0
    return NoRoom(
        f"{demand}: {reason} (GET /plan?model_id={slot.spec.id} explains)", details=details, retry_after_s=retry_after_s
    )
