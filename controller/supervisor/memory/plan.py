"""What a start would come to, told without doing it."""

from __future__ import annotations

from dataclasses import dataclass

from controller.supervisor.backend import Amount
from controller.supervisor.memory.placement import Holder, Placement
from controller.supervisor.states import State


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A placement with all that went into it."""

    model_id: str
    state: State
    needed: Amount
    room: Amount
    holders: tuple[Holder, ...]
    placement: Placement

    @property
    def verdict(self) -> str:
        """The placement as a sentence."""
        found = self.placement
        victims = ", ".join(holder.model_id for holder in found.victims)
        if self.state is State.READY:
            return "it runs already"
        if found.fits:
            return "it fits beside what runs"
        if found.impossible:
            return "there is no room for it, and nothing that may be stopped would make enough"
        if found.victims and found.look_again_in_s > 0:
            return f"{victims} would be stopped for it, in {found.look_again_in_s:.0f} s at the earliest"
        if found.victims:
            return f"{victims} would be stopped for it"
        return f"it would wait for {', '.join(found.waits_for)}"

    def why_it_stays(self, holder: Holder) -> str | None:
        """Why this one would not be stopped; None when it would be."""
        if holder in self.placement.victims:
            return None
        if holder.pinned:
            return "pinned"
        if holder.leaves:
            return "is being stopped already"
        if holder.stays is not None:
            return holder.stays
        return "not needed" if self.placement.fits or self.placement.victims else "would not be enough"
