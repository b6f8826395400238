"""Lets starts in, in the order in which they asked, and has other models leave where there is no room."""

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

# What is free can grow without anybody telling us: other programs hold memory, too.
LOOK_ANYWAY_S = 5.0
# A request may come to need what nobody had asked for.
LOOK_FOR_REQUESTS_S = 1.0
# Who waits for a start asked at about the same time, and is told that it took too long, not that it failed.
WAITERS_FIRST_S = 1.0


class Step(Enum):
    """What one look at the room came to."""

    ADMITTED = "admitted"
    WAITED = "waited"
    WOULD_EVICT = "would evict"


class Admission:
    """One for all models. `lock` is the supervisor's; what takes slots for granted runs with it held."""

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
        self._waiting: list[Slot] = []
        self._spare: dict[Slot, Amount] = {}

    def admit(self, slot: Slot, attempt: Attempt, is_closing: Callable[[], bool]) -> None:
        """Give the model its part of the budget; blocks until there is room. Called without the lock.

        Raises NoRoom when there never can be, when nobody waits for it any more, or when there was none for `max_wait`
        and a moment: whoever was to make room for it serves on then. Cancelled; a Docker error when others would have
        to be stopped and Docker does not answer.
        """
        needed = self._backend.needs(slot.spec.id)
        asked_at = self._clock.monotonic()
        with self._lock:
            self._waiting.append(slot)
        try:
            while (step := self._try(slot, attempt, needed, asked_at, is_closing)) is not Step.ADMITTED:
                if step is Step.WOULD_EVICT:
                    # Nobody is to be closed for a start that cannot be.
                    self._backend.find(slot.spec.id)
                    attempt.allow_eviction()
        finally:
            with self._lock:
                self._waiting.remove(slot)
                self._spare.pop(slot, None)
                slot.attempt_waits_for(())
                self._wake_all()

    def hold(self, slot: Slot, limit_bytes: int | None) -> None:
        """Count what an attempt found running, or brought up, whether there is room or not. Called without the lock."""
        amount = self._backend.needs(slot.spec.id, limit_bytes=limit_bytes)
        with self._lock:
            slot.count(amount)

    def nudge(self) -> None:
        """Something that holds memory has become free to go, or has gone."""
        for slot in self._waiting:
            slot.changed.notify_all()

    def room(self) -> Amount:
        """What there is for all models together. Called without the lock."""
        with self._lock:
            held = [_Held.of(slot) for slot in self._slots() if slot.holds is not None]
        used_bytes = 0
        for found in held:
            now_bytes = None if found.container_id is None else self._backend.working_set(found.container_id)
            used_bytes += found.assumed_bytes if now_bytes is None else now_bytes
        return self._backend.room(used_bytes)

    def plan(self, slot: Slot) -> Plan:
        """Return what a start of the model would come to now. Called without the lock; raises like `room`."""
        needed, room = self._backend.needs(slot.spec.id), self.room()
        with self._lock:
            holders = self._other_holders(slot)
            return Plan(
                model_id=slot.spec.id,
                state=slot.state,
                needed=needed,
                room=room,
                holders=tuple(holders),
                placement=place(needed, holders, room),
            )

    def _other_holders(self, slot: Slot) -> list[Holder]:
        """Return every other model that holds a part of the budget."""
        now = self._clock.monotonic()
        return [_holder(other, now) for other in self._slots() if other.holds is not None and other is not slot]

    def _try(
        self, slot: Slot, attempt: Attempt, needed: Amount, asked_at: float, is_closing: Callable[[], bool]
    ) -> Step:
        """One look: take the place, make others go, or wait until something changes."""
        room = self.room()
        with self._lock:
            if is_closing() or attempt.cancelled:
                raise Cancelled(f"the start of {slot.spec.id} was cancelled while it waited for memory")
            now = self._clock.monotonic()
            placement = place(needed, self._other_holders(slot), room, waited_s=now - asked_at)
            if placement.fits and self._passes(slot, needed):
                slot.attempt_admitted(needed, now)
                return Step.ADMITTED
            if placement.impossible:
                raise no_room(slot, needed, room, placement)
            slot.attempt_waits_for(tuple(holder.model_id for holder in placement.victims) or placement.waits_for)
            # Nobody is to leave for those who have gone themselves, nor to be closed for longer than anybody waits.
            left_s = asked_at + slot.spec.max_wait_s - now
            if not attempt.is_unasked:
                left_s = left_s + WAITERS_FIRST_S if slot.queue else 0.0
            if left_s <= 0:
                raise no_room(slot, needed, room, placement)
            is_patient = _is_patient(slot)
            if self._order()[0] is slot:
                self._spare[slot] = placement.spare
                if placement.victims and placement.look_again_in_s <= 0 and not is_patient:
                    if not attempt.use_eviction():
                        return Step.WOULD_EVICT
                    self._evict(slot, [holder.model_id for holder in placement.victims])
            wait_s = min(placement.look_again_in_s or LOOK_ANYWAY_S, LOOK_ANYWAY_S)
            self._clock.wait(slot.changed, min(LOOK_FOR_REQUESTS_S if is_patient else wait_s, left_s))
        return Step.WAITED

    def _passes(self, slot: Slot, needed: Amount) -> bool:
        """Whether it takes nothing that was freed for one that has waited longer."""
        order = self._order()
        ahead = order[: order.index(slot)]
        return all(other in self._spare and self._spare[other].covers(needed) for other in ahead)

    def _order(self) -> list[Slot]:
        """Who is next: in the order in which they asked, and at the end those that nobody asked for."""
        return sorted(self._waiting, key=_is_patient)

    def _evict(self, slot: Slot, victims: list[str]) -> None:
        """Let each end what it has in flight, admit nothing new, and stop; unless the place is not wanted any more."""
        for victim in self._slots():
            if victim.spec.id in victims:
                log.info("%s: leaves its memory to %s", victim.spec.id, slot.spec.id)
                name = f"evict {victim.spec.id}"
                wanted = lambda: slot in self._waiting  # noqa: E731
                # It waits for the lock that we hold; a thread that cannot be had closes nobody.
                threading.Thread(target=self._make_room, args=(victim, wanted), name=name, daemon=True).start()
                victim.make_room()
                self._metrics.evicted(victim.spec.id)

    def _wake_all(self) -> None:
        for slot in self._slots():
            slot.changed.notify_all()


@dataclass(frozen=True)
class _Held:
    """What of the memory that models hold is taken already, where the kernel does not show it."""

    container_id: str | None
    assumed_bytes: int

    @classmethod
    def of(cls, slot: Slot) -> _Held:
        if slot.container is not None and slot.holds is not None:
            return cls(slot.container.id, slot.holds.memory_bytes if slot.usage is None else slot.usage.memory_bytes)
        # One that is starting has taken next to nothing yet, as far as is known.
        return cls(None if slot.attempt is None else slot.attempt.container_id, 0)


def _is_patient(slot: Slot) -> bool:
    """Whether it starts without anybody's asking, for which nobody is to leave or to wait."""
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
        # Of one at rest something may run that nobody keeps: it is looked for, and gone then.
        pinned=slot.spec.pinned and slot.state not in RESTING,
        in_use=bool(slot.leases or slot.queue),
        leaves=slot.state is State.DRAINING,
        stays=stays,
        idle_s=0.0 if slot.used_at is None else now - slot.used_at,
        resident_s=0.0 if slot.ready_at is None else now - slot.ready_at,
        min_residency_s=slot.spec.min_residency_s,
        reload_s=slot.reload_s,
    )


def no_room(slot: Slot, needed: Amount, room: Amount, placement: Placement) -> NoRoom:
    """The error that names what holds the memory, and what can be done."""
    has = f"{slot.spec.id} needs {needed.memory_bytes // MIB} MiB of the {room.memory_bytes // MIB} MiB for models"
    if needed.gpus:
        has += f" and {needed.gpus} of {'an unknown number of' if room.gpus is None else room.gpus} GPUs"
    names = [holder.model_id for holder in placement.held_by] or list(placement.waits_for)
    names = names or [holder.model_id for holder in placement.victims]
    if placement.impossible and names:
        why = f"{', '.join(names)} holds them and is pinned; stop it (POST /stop) or take `pinned` away"
    elif placement.impossible:
        why = "no other model's stop would give it that; lower its resources.memory, or raise memory_budget"
    else:
        why = f"{', '.join(names)} did not become free in time; try again, or stop it (POST /stop)"
    details = {
        "needed_bytes": needed.memory_bytes,
        "budget_bytes": room.memory_bytes,
        "held_by": names,
    }
    # A victim whose time comes is known; who else goes, and when, is nobody's to tell.
    retry_after_s = max(placement.look_again_in_s, 1.0) if placement.victims else 10.0
    return NoRoom(
        f"{has}: {why} (GET /plan?model_id={slot.spec.id} explains)", details=details, retry_after_s=retry_after_s
    )
