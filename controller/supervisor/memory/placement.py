"""Which models have to stop before another one can start: a pure decision, from values alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from controller.supervisor.backend import Amount

NOTHING = Amount(memory_bytes=0)
# The reload of a model that was never measured, as of a small one; it only weighs models against each other.
UNKNOWN_RELOAD_S = 2.0


@dataclass(frozen=True, kw_only=True)
class Holder:
    """A model that holds a part of the machine; times are spans that end now.

    `stays`: why it cannot be stopped now ("is starting"). `leaves`: it is being stopped already.
    """

    model_id: str
    holds: Amount
    pinned: bool = False
    in_use: bool = False
    leaves: bool = False
    stays: str | None = None
    idle_s: float = 0.0
    resident_s: float = 0.0
    min_residency_s: float = 0.0
    reload_s: float | None = None

    @property
    def usefulness(self) -> float:
        """Return the seconds that its reload costs per second that it was not used: the higher, the longer it stays.

        The classic trade of caches between recency and the cost of a miss, as in GreedyDual (Young, 1991).
        """
        reload_s = UNKNOWN_RELOAD_S if self.reload_s is None else self.reload_s
        return reload_s / max(self.idle_s, 0.001)

    def wait_s(self, waited_s: float) -> float:
        """Return how long until it may be stopped for a model that has waited `waited_s` already.

        A model that has just become ready keeps its place for its `min_residency`; one in use is stopped only for a
        model that has waited as long.
        """
        residency_s = max(self.min_residency_s - self.resident_s, 0.0)
        patience_s = max(self.min_residency_s - waited_s, 0.0) if self.in_use else 0.0
        return max(residency_s, patience_s)


@dataclass(frozen=True, kw_only=True)
class Placement:
    """How a start gets its part of the machine.

    `fits`: at once. `victims`: these are stopped for it, now, or in `look_again_in_s` if it is too early. Neither: it
    waits for the models in `waits_for`. `impossible`: all that is not enough; `held_by` keep their parts for good.
    `spare`: what would be left afterwards.
    """

    fits: bool = False
    impossible: bool = False
    victims: tuple[Holder, ...] = ()
    look_again_in_s: float = 0.0
    waits_for: tuple[str, ...] = ()
    held_by: tuple[Holder, ...] = ()
    spare: Amount = NOTHING


def place(need: Amount, holders: Iterable[Holder], room: Amount, *, waited_s: float = 0.0) -> Placement:
    """Return how a model that needs `need` can run beside `holders` in `room`, after it has waited `waited_s`.

    Idle models are stopped before those in use, the least useful first, and none that would not help.
    """
    holders = list(holders)
    free = room
    for holder in holders:
        free = free.minus(holder.holds)
    if free.covers(need):
        return Placement(fits=True, spare=free.minus(need))
    leaving = [holder for holder in holders if holder.leaves]
    for holder in leaving:
        free = free.plus(holder.holds)
    waits_for = tuple(holder.model_id for holder in leaving)
    if free.covers(need):
        return Placement(waits_for=waits_for, spare=free.minus(need))
    return _evict(need, [holder for holder in holders if not holder.leaves], free, waits_for, waited_s)


def _evict(need: Amount, holders: list[Holder], free: Amount, waits_for: tuple[str, ...], waited_s: float) -> Placement:
    """Return the placement if the models that leave already do not free enough."""
    pinned = [holder for holder in holders if holder.pinned]
    starting = [holder for holder in holders if not holder.pinned and holder.stays is not None]
    candidates = [holder for holder in holders if not holder.pinned and holder.stays is None]
    candidates.sort(key=lambda h: (h.wait_s(waited_s) > 0, h.in_use, h.usefulness))
    victims: list[Holder] = []
    for candidate in candidates:
        if free.covers(need):
            break
        victims.append(candidate)
        free = free.plus(candidate.holds)
    if not free.covers(need):
        with_starting = free
        for holder in starting:
            with_starting = with_starting.plus(holder.holds)
        if not with_starting.covers(need):
            return Placement(impossible=True, held_by=tuple(pinned))
        return Placement(waits_for=(*waits_for, *(holder.model_id for holder in starting)))
    victims, free = _spare_needless(need, victims, free)
    wait_s = max((victim.wait_s(waited_s) for victim in victims), default=0.0)
    return Placement(victims=tuple(victims), look_again_in_s=wait_s, waits_for=waits_for, spare=free.minus(need))


def _spare_needless(need: Amount, victims: list[Holder], free: Amount) -> tuple[list[Holder], Amount]:
    """Return the victims that are needed, sparing the most useful ones first, and what is free after that."""
    rest = list(victims)
    for victim in reversed(victims):
        without = free.minus(victim.holds)
        if without.covers(need):
            rest.remove(victim)
            free = without
    return rest, free
