"""Who goes for whom: truths about `place` over any machine."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from controller.supervisor.backend import Amount
from controller.supervisor.memory.placement import Holder, place

GIB = 1 << 30


def holder(model_id: str, gib: float = 1, **values: object) -> Holder:
    defaults: dict[str, object] = {"idle_s": 100.0, "resident_s": 1000.0, "min_residency_s": 10.0, "reload_s": 2.0}
    return Holder(model_id=model_id, holds=amount(gib), **{**defaults, **values})  # type: ignore[arg-type]


def amount(gib: float, gpus: int | None = 0) -> Amount:
    return Amount(memory_bytes=int(gib * GIB), gpus=gpus)


def ids(holders: tuple[Holder, ...]) -> list[str]:
    return [holder.model_id for holder in holders]


any_holder = st.builds(
    Holder,
    model_id=st.uuids().map(str),
    holds=st.builds(Amount, memory_bytes=st.integers(0, 8 * GIB), gpus=st.integers(0, 2)),
    pinned=st.booleans(),
    in_use=st.booleans(),
    leaves=st.booleans(),
    stays=st.none() | st.just("is starting"),
    idle_s=st.floats(0, 1e6),
    resident_s=st.floats(0, 1e6),
    min_residency_s=st.floats(0, 100),
    reload_s=st.none() | st.floats(0, 1000),
)
any_amount = st.builds(Amount, memory_bytes=st.integers(0, 32 * GIB), gpus=st.integers(0, 4))


class TestWhoGoes:
    def test_what_fits_harms_nobody(self) -> None:
        found = place(amount(1), [holder("a")], amount(2))
        assert found.fits
        assert not found.victims

    def test_the_least_useful_goes_first(self) -> None:
        """Of two idle ones the one that was not used for longer goes, unless its reload costs that much more."""
        long_idle, just_used = holder("a", idle_s=300), holder("b", idle_s=30)
        assert ids(place(amount(1), [just_used, long_idle], amount(2)).victims) == ["a"]
        slow_to_load = holder("a", idle_s=300, reload_s=200)
        assert ids(place(amount(1), [just_used, slow_to_load], amount(2)).victims) == ["b"]

    def test_no_more_go_than_have_to(self) -> None:
        """A small one that was chosen first stays when a bigger one had to go anyway."""
        found = place(amount(3), [holder("small", 1, idle_s=500), holder("big", 3, idle_s=50)], amount(4))
        assert ids(found.victims) == ["big"]

    def test_an_idle_one_goes_before_one_in_use(self) -> None:
        found = place(amount(1), [holder("busy", in_use=True), holder("idle")], amount(2), waited_s=60)
        assert ids(found.victims) == ["idle"]

    def test_one_in_use_goes_when_somebody_has_waited_its_residency(self) -> None:
        busy = [holder("busy", in_use=True)]
        assert place(amount(1), busy, amount(1), waited_s=4).look_again_in_s == 6
        found = place(amount(1), busy, amount(1), waited_s=10)
        assert (ids(found.victims), found.look_again_in_s) == (["busy"], 0)

    def test_one_that_just_became_ready_keeps_its_place(self) -> None:
        found = place(amount(1), [holder("new", resident_s=3)], amount(1), waited_s=100)
        assert found.look_again_in_s == 7

    def test_one_whose_time_has_come_goes_rather_than_one_to_wait_for(self) -> None:
        found = place(amount(1), [holder("new", resident_s=3, idle_s=3), holder("old", idle_s=0.5)], amount(2))
        assert (ids(found.victims), found.look_again_in_s) == (["old"], 0)

    def test_pinned_ones_are_named_when_nothing_can_go(self) -> None:
        found = place(amount(2), [holder("pinned", pinned=True), holder("other")], amount(2))
        assert found.impossible
        assert ids(found.held_by) == ["pinned"]

    def test_what_is_leaving_or_starting_is_waited_for(self) -> None:
        assert place(amount(1), [holder("a", leaves=True), holder("b")], amount(2)).waits_for == ("a",)
        assert place(amount(1), [holder("a", stays="is starting")], amount(1)).waits_for == ("a",)

    def test_gpus_are_units(self) -> None:
        """A model without GPUs takes none from anybody; one with them makes a holder of them go."""
        gpu = Holder(model_id="gpu", holds=amount(1, 1), idle_s=1, resident_s=99)
        machine = amount(8, 1)
        assert place(amount(1), [gpu], machine).fits
        assert ids(place(amount(1, 1), [gpu, holder("cpu")], machine).victims) == ["gpu"]
        assert place(amount(1, 1), [gpu], amount(8, None)).fits


@given(needed=any_amount, holders=st.lists(any_holder, max_size=6), room=any_amount, waited_s=st.floats(0, 1000))
def test_it_always_keeps_its_word(needed: Amount, holders: list[Holder], room: Amount, waited_s: float) -> None:
    """With the victims and the leaving ones gone there is room, none of them is superfluous, pinned or starting, and
    `impossible` is said exactly when all that could ever go would not do."""
    found = place(needed, holders, room, waited_s=waited_s)
    assert found.fits == room.covers(_sum(needed, holders))
    staying = [h for h in holders if not h.leaves and h not in found.victims]
    if found.victims:
        assert room.covers(_sum(needed, staying))
        assert not any(v.pinned or v.stays or v.leaves for v in found.victims)
        assert not any(room.covers(_sum(needed, [*staying, victim])) for victim in found.victims)
    for_good = [h for h in holders if h.pinned and not h.leaves]
    assert found.impossible == (not found.fits and not room.covers(_sum(needed, for_good)))
    assert found.fits or found.impossible or found.victims or found.waits_for


def _sum(needed: Amount, holders: list[Holder]) -> Amount:
    total = needed
    for held in holders:
        total = total.plus(held.holds)
    return total
