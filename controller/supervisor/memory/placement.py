"""Who has to stop before a model can start: pure, from values alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from controller.supervisor.backend import Amount

NOTHING = Amount(memory_bytes=0)
# A model that was never measured costs what a small one does; it only weighs models against each other.
UNKNOWN_RELOAD_S = 2.0


@dataclass(frozen=True, kw_only=True)
class Holder:
    """A model that holds a part of the machine; times are spans that end now.

    `stays` names what keeps it for now whatever is asked ("is starting"), `leaves` that it is being stopped already.
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
        """Seconds that its reload would cost for each second that it was not used: high for what is better kept.

        The classic trade of caches between recency and the cost of a miss, as in GreedyDual (Young, 1991).
        """
        reload_s = UNKNOWN_RELOAD_S if self.reload_s is None else self.reload_s
        return reload_s / max(self.idle_s, 0.001)

    def wait_s(self, waited_s: float) -> float:
        """How long until it may be told to go, by one that has waited `waited_s` already.

        Who has just become ready keeps its place for its `min_residency`; one in use goes when somebody has waited as
        long, and no earlier.
        """
        residency_s = max(self.min_residency_s - self.resident_s, 0.0)
        patience_s = max(self.min_residency_s - waited_s, 0.0) if self.in_use else 0.0
        return max(residency_s, patience_s)


@dataclass(frozen=True, kw_only=True)
class Placement:
    """What a start comes to.

    `fits`: at once. `victims`: these go for it, now, or in `look_again_in_s` when their time has not come. Neither: it
    waits for what `waits_for` names. `impossible`: none of that would do; `held_by` has the place for good.
    `spare`: what would be left beside it afterwards.
    """

    fits: bool = False
    impossible: bool = False
    victims: tuple[Holder, ...] = ()
    look_again_in_s: float = 0.0
    waits_for: tuple[str, ...] = ()
    held_by: tuple[Holder, ...] = ()
    spare: Amount = NOTHING


def place(needed: Amount, holders: Iterable[Holder], room: Amount, *, waited_s: float = 0.0) -> Placement:
    """How a model that needs `needed` comes to run beside `holders` in `room`, having waited for it `waited_s`.

    Idle models go before those in use, the least useful first, and none that would not help.
    """
    holders = list(holders)
    free = room
    for holder in holders:
        free = free.minus(holder.holds)
    if free.covers(needed):
        return Placement(fits=True, spare=free.minus(needed))
    leaving = [holder for holder in holders if holder.leaves]
    for holder in leaving:
        free = free.plus(holder.holds)
    waits_for = tuple(holder.model_id for holder in leaving)
    if free.covers(needed):
        return Placement(waits_for=waits_for, spare=free.minus(needed))
    return _evict(needed, [holder for holder in holders if not holder.leaves], free, waits_for, waited_s)


def _evict(
    needed: Amount, holders: list[Holder], free: Amount, waits_for: tuple[str, ...], waited_s: float
) -> Placement:
    """The same when leaving models alone give too little."""
    pinned = [holder for holder in holders if holder.pinned]
    starting = [holder for holder in holders if not holder.pinned and holder.stays is not None]
    candidates = [holder for holder in holders if not holder.pinned and holder.stays is None]
    candidates.sort(key=lambda h: (h.wait_s(waited_s) > 0, h.in_use, h.usefulness))
    chosen: list[Holder] = []
    for candidate in candidates:
        if free.covers(needed):
            break
        chosen.append(candidate)
        free = free.plus(candidate.holds)
    if not free.covers(needed):
        with_starting = free
        for holder in starting:
            with_starting = with_starting.plus(holder.holds)
        if not with_starting.covers(needed):
            return Placement(impossible=True, held_by=tuple(pinned))
        return Placement(waits_for=(*waits_for, *(holder.model_id for holder in starting)))
    victims, free = _only_needed(needed, chosen, free)
    wait_s = max((victim.wait_s(waited_s) for victim in victims), default=0.0)
    return Placement(victims=victims, look_again_in_s=wait_s, waits_for=waits_for, spare=free.minus(needed))


def _only_needed(needed: Amount, chosen: list[Holder], free: Amount) -> tuple[tuple[Holder, ...], Amount]:
    """Spare those, the most useful first, that the others turned out to make up for."""
    kept = list(chosen)
    for victim in reversed(chosen):
        without = free.minus(victim.holds)
        if without.covers(needed):
            kept.remove(victim)
            free = without
    return tuple(kept), free
