"""Which models are stopped for another one: truths about `place` on any machine."""

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
    def test_a_model_that_fits_stops_no_other(self) -> None:
        placement = place(amount(1), [holder("a")], amount(2))
        assert placement.fits
        assert not placement.victims

    def test_the_least_useful_goes_first(self) -> None:
        """Of two idle models the one that was not used for longer goes, unless its reload costs that much more."""
        long_idle, just_used = holder("a", idle_s=300), holder("b", idle_s=30)
        assert ids(place(amount(1), [just_used, long_idle], amount(2)).victims) == ["a"]
        slow_to_load = holder("a", idle_s=300, reload_s=200)
        assert ids(place(amount(1), [just_used, slow_to_load], amount(2)).victims) == ["b"]

    def test_no_more_go_than_have_to(self) -> None:
        """A small model that was chosen first stays if a bigger one has to go anyway."""
        placement = place(amount(3), [holder("small", 1, idle_s=500), holder("big", 3, idle_s=50)], amount(4))
        assert ids(placement.victims) == ["big"]

    def test_an_idle_one_goes_before_one_in_use(self) -> None:
        placement = place(amount(1), [holder("busy", in_use=True), holder("idle")], amount(2), waited_s=60)
        assert ids(placement.victims) == ["idle"]

    def test_one_in_use_goes_for_a_model_that_has_waited_its_residency(self) -> None:
        busy = [holder("busy", in_use=True)]
        assert place(amount(1), busy, amount(1), waited_s=4).look_again_in_s == 6
        placement = place(amount(1), busy, amount(1), waited_s=10)
        assert (ids(placement.victims), placement.look_again_in_s) == (["busy"], 0)

    def test_one_that_just_became_ready_keeps_its_place(self) -> None:
        placement = place(amount(1), [holder("new", resident_s=3)], amount(1), waited_s=100)
        assert placement.look_again_in_s == 7

    def test_one_whose_time_has_come_goes_rather_than_one_to_wait_for(self) -> None:
        placement = place(amount(1), [holder("new", resident_s=3, idle_s=3), holder("old", idle_s=0.5)], amount(2))
        assert (ids(placement.victims), placement.look_again_in_s) == (["old"], 0)

    def test_pinned_ones_are_named_when_nothing_can_go(self) -> None:
        placement = place(amount(2), [holder("pinned", pinned=True), holder("other")], amount(2))
        assert placement.impossible
        assert ids(placement.held_by) == ["pinned"]

    def test_what_is_leaving_or_starting_is_waited_for(self) -> None:
        assert place(amount(1), [holder("a", leaves=True), holder("b")], amount(2)).waits_for == ("a",)
        assert place(amount(1), [holder("a", stays="is starting")], amount(1)).waits_for == ("a",)

    def test_gpus_are_units(self) -> None:
        """A model without GPUs takes none away; one with them stops a model that has some."""
        gpu = Holder(model_id="gpu", holds=amount(1, 1), idle_s=1, resident_s=99)
        machine = amount(8, 1)
        assert place(amount(1), [gpu], machine).fits
        assert ids(place(amount(1, 1), [gpu, holder("cpu")], machine).victims) == ["gpu"]
        assert place(amount(1, 1), [gpu], amount(8, None)).fits


@given(need=any_amount, holders=st.lists(any_holder, max_size=6), room=any_amount, waited_s=st.floats(0, 1000))
def test_its_answer_always_holds(need: Amount, holders: list[Holder], room: Amount, waited_s: float) -> None:
    """Without the victims and the leaving models there is room, no victim is superfluous, pinned or starting, and
    `impossible` is the answer exactly if all models that could ever go would not be enough."""
    placement = place(need, holders, room, waited_s=waited_s)
    assert placement.fits == room.covers(_sum(need, holders))
    staying = [h for h in holders if not h.leaves and h not in placement.victims]
    if placement.victims:
        assert room.covers(_sum(need, staying))
        assert not any(v.pinned or v.stays or v.leaves for v in placement.victims)
        assert not any(room.covers(_sum(need, [*staying, victim])) for victim in placement.victims)
    for_good = [h for h in holders if h.pinned and not h.leaves]
    assert placement.impossible == (not placement.fits and not room.covers(_sum(need, for_good)))
    assert placement.fits or placement.impossible or placement.victims or placement.waits_for


def _sum(need: Amount, holders: list[Holder]) -> Amount:
    total = need
    for holder in holders:
        total = total.plus(holder.holds)
    return total
