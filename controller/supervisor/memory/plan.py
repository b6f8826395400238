"""What a start would do now, for `GET /plan`."""

from __future__ import annotations

from dataclasses import dataclass

from controller.supervisor.backend import Amount
from controller.supervisor.memory.placement import Holder, Placement
from controller.supervisor.states import State


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A placement with all that led to it."""

    model_id: str
    state: State
    need: Amount
    room: Amount
    holders: tuple[Holder, ...]
    placement: Placement

    @property
    def verdict(self) -> str:
        """Return the placement as a sentence."""
        placement = self.placement
        victims = ", ".join(holder.model_id for holder in placement.victims)
        if self.state is State.READY:
            return "it runs already"
        if placement.fits:
            return "it fits beside what runs"
        if placement.impossible:
            return "there is no room for it, and nothing that may be stopped would make enough"
        if placement.victims and placement.look_again_in_s > 0:
            return f"{victims} would be stopped for it, in {placement.look_again_in_s:.0f} s at the earliest"
        if placement.victims:
            return f"{victims} would be stopped for it"
        return f"it would wait for {', '.join(placement.waits_for)}"

    def why_it_stays(self, holder: Holder) -> str | None:
        """Return why this model would not be stopped; None if it would be."""
        if holder in self.placement.victims:
            return None
        if holder.pinned:
            return "pinned"
        if holder.leaves:
            return "is being stopped already"
        if holder.stays is not None:
            return holder.stays
        return "not needed" if self.placement.fits or self.placement.victims else "would not be enough"
