"""Lets starts in, in the order in which they asked, and has other models leave where there is no room."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable

from controller.errors import Cancelled, NoRoom
from controller.metrics import Metrics
from controller.placement import Amount, Holder, Placement, place
from controller.supervisor.clock import Clock
from controller.supervisor.model import Attempt, Slot, State
from controller.supervisor.starting import Backend

log = logging.getLogger(__name__)

MIB = 1024 * 1024
# What is free can grow without anybody telling us: other programs hold memory, too.
LOOK_ANYWAY_S = 5.0


class Admission:
    """One for all models. `lock` is the supervisor's; what takes slots for granted runs with it held."""

    def __init__(
        self,
        slots: Callable[[], Iterable[Slot]],
        backend: Backend,
        clock: Clock,
        lock: threading.Lock,
        evict: Callable[[Slot, Callable[[], bool]], None],
        metrics: Metrics,
    ) -> None:
        self._metrics = metrics
        self._slots = slots
        self._backend = backend
        self._clock = clock
        self._lock = lock
        self._evict = evict
        self._waiting: list[Slot] = []
        self._spare: dict[Slot, Amount] = {}

    def admit(self, slot: Slot, attempt: Attempt, is_closing: Callable[[], bool]) -> None:
        """Give the model its part of the budget; blocks until there is room. Called without the lock.

        Raises NoRoom when there never can be, when nobody waits for it any more, or, where no request ever did, when
        there was none for `max_wait`; Cancelled.
        """
        needed = self._backend.needs(slot.spec.id)
        asked_at = self._clock.monotonic()
        with self._lock:
            self._waiting.append(slot)
        try:
            while not self._try(slot, attempt, needed, asked_at, is_closing):
                pass
        finally:
            with self._lock:
                self._waiting.remove(slot)
                self._spare.pop(slot, None)
                slot.waits_for = ()
                self._wake_all()

    def hold(self, slot: Slot, limit_bytes: int | None) -> None:
        """Count what runs already, whether there is room or not. Called without the lock."""
        holds = self._backend.needs(slot.spec.id, limit_bytes=limit_bytes)
        with self._lock:
            slot.holds = holds

    def nudge(self) -> None:
        """Something that holds memory has become free to go, or has gone."""
        for slot in self._waiting:
            slot.changed.notify_all()

    def room(self) -> Amount:
        """What there is for all models together. Called without the lock."""
        with self._lock:
            held = [(slot.container, slot.usage, slot.holds) for slot in self._slots() if slot.holds is not None]
        used_bytes = 0
        for container, usage, holds in held:
            # What is still starting has taken next to nothing yet of what is free.
            if container is not None and holds is not None:
                now_bytes = self._backend.working_set(container.id)
                sampled = holds.memory_bytes if usage is None else usage.memory_bytes
                used_bytes += sampled if now_bytes is None else now_bytes
        return self._backend.room(used_bytes)

    def placement(self, slot: Slot, needed: Amount, room: Amount, *, waited_s: float) -> Placement:
        """What a start of the model comes to now."""
        now = self._clock.monotonic()
        return place(needed, self.holders(now, without=slot), room, waited_s=waited_s)

    def holders(self, now: float, *, without: Slot | None = None) -> list[Holder]:
        """Every other model that holds a part of the budget, `now` being monotonic."""
        return [_holder(slot, now) for slot in self._slots() if slot.holds is not None and slot is not without]

    def _try(
        self, slot: Slot, attempt: Attempt, needed: Amount, asked_at: float, is_closing: Callable[[], bool]
    ) -> bool:
        """One look: take the place, make others go, or wait until something changes."""
        room = self.room()
        with self._lock:
            if is_closing() or attempt.cancelled:
                raise Cancelled(f"the start of {slot.spec.id} was cancelled while it waited for memory")
            now = self._clock.monotonic()
            found = self.placement(slot, needed, room, waited_s=now - asked_at)
            if found.fits and self._passes(slot, needed):
                slot.holds, attempt.admitted_at = needed, now
                return True
            if found.impossible:
                raise no_room(slot, needed, room, found)
            slot.waits_for = tuple(holder.model_id for holder in found.victims) or found.waits_for
            wait_s = min(found.look_again_in_s or LOOK_ANYWAY_S, LOOK_ANYWAY_S)
            if self._waiting[0] is slot:
                self._spare[slot] = found.spare
                if found.victims and found.look_again_in_s <= 0:
                    self._send_away(slot, [holder.model_id for holder in found.victims])
            if not slot.queue:
                # Nobody is to leave for those who have gone themselves.
                left_s = asked_at + slot.spec.max_wait_s - now if attempt.unasked else 0.0
                if left_s <= 0:
                    raise no_room(slot, needed, room, found)
                wait_s = min(wait_s, left_s)
            self._clock.wait(slot.changed, wait_s)
        return False

    def _passes(self, slot: Slot, needed: Amount) -> bool:
        """Whether it takes nothing that was freed for one that has waited longer."""
        ahead = self._waiting[: self._waiting.index(slot)]
        return all(other in self._spare and self._spare[other].covers(needed) for other in ahead)

    def _send_away(self, slot: Slot, victims: list[str]) -> None:
        """Let each end what it has in flight, admit nothing new, and stop; unless the place is not wanted any more."""
        for victim in self._slots():
            if victim.spec.id in victims:
                log.info("%s: leaves its memory to %s", victim.spec.id, slot.spec.id)
                victim.enter(State.DRAINING)
                self._metrics.evicted(victim.spec.id)
                name = f"evict {victim.spec.id}"
                wanted = lambda: slot in self._waiting  # noqa: E731
                threading.Thread(target=self._evict, args=(victim, wanted), name=name, daemon=True).start()

    def _wake_all(self) -> None:
        for slot in self._slots():
            slot.changed.notify_all()


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
        pinned=slot.spec.pinned,
        in_use=bool(slot.leases or slot.queue),
        leaves=slot.state is State.DRAINING,
        stays=stays,
        idle_s=0.0 if slot.used_at is None else now - slot.used_at,
        resident_s=0.0 if slot.ready_at is None else now - slot.ready_at,
        min_residency_s=slot.spec.min_residency_s,
        reload_s=slot.reload_s,
    )


def no_room(slot: Slot, needed: Amount, room: Amount, found: Placement) -> NoRoom:
    """The error that names what holds the memory, and what can be done."""
    has = f"{slot.spec.id} needs {needed.memory_bytes // MIB} MiB of the {room.memory_bytes // MIB} MiB for models"
    if needed.gpus:
        has += f" and {needed.gpus} of {'an unknown number of' if room.gpus is None else room.gpus} GPUs"
    names = [holder.model_id for holder in found.held_by] or list(found.waits_for)
    names = names or [holder.model_id for holder in found.victims]
    if found.impossible and names:
        why = f"{', '.join(names)} holds them and is pinned; stop it (POST /stop) or take `pinned` away"
    elif found.impossible:
        why = "no other model's stop would give it that; lower its resources.memory, or raise memory_budget"
    else:
        why = f"{', '.join(names)} did not become free in time; try again, or stop it (POST /stop)"
    details = {
        "needed_bytes": needed.memory_bytes,
        "budget_bytes": room.memory_bytes,
        "held_by": names,
    }
    return NoRoom(f"{has}: {why} (GET /plan?model_id={slot.spec.id} explains)", details=details, retry_after_s=10.0)
