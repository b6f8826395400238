"""The record of a model with `engine: auto` follows what its files decide."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from controller.errors import PreparationFailed
from controller.registry.spec import Candidate
from tests.controller.supervisor.house import House, lease
from tests.fakes import make_spec

CANDIDATES = (Candidate(engine="openvino", max_concurrency=32), Candidate(engine="llamacpp", max_concurrency=8))
SPEC = make_spec("tiny", engine="openvino", candidates=CANDIDATES, max_concurrency=32)


@pytest.fixture
def auto_house(house: House) -> House:
    """Boot a house whose model `tiny` has two engines to choose from, and no files yet."""
    house.specs["tiny"] = SPEC
    house.backend.prepared_models = set()
    house.supervisor.close()
    house.supervisor = house.boot()
    return house


def engine_of(house: House) -> tuple[str, int]:
    entry = house.supervisor.entry("tiny")
    return entry.engine, entry.max_concurrency


def decide(house: House, engine: str) -> Any:
    """Let the next preparation decide for this engine."""
    house.backend.on_prepare = lambda *_: house.backend.engines.update({"tiny": engine})


def test_what_is_decided_already_counts_after_a_restart(auto_house: House) -> None:
    """The places are those of the engine that serves, not of the provisional one."""
    auto_house.backend.engines["tiny"] = "llamacpp"
    auto_house.supervisor.close()
    auto_house.supervisor = auto_house.boot()
    assert ("llamacpp", 8) == engine_of(auto_house)
    assert "llamacpp" == auto_house.supervisor.view("tiny").spec.engine


def test_a_start_decides(auto_house: House) -> None:
    """The preparation of a start changes the engine, and with it how many requests are let in."""
    decide(auto_house, "llamacpp")
    assert ("openvino", 32) == engine_of(auto_house)
    lease(auto_house).release()
    assert ("llamacpp", 8) == engine_of(auto_house)


def test_a_start_learns_what_another_process_decided(auto_house: House) -> None:
    """`provision` prepared the model meanwhile, so that the start itself decides nothing."""
    auto_house.backend.engines["tiny"] = "llamacpp"
    auto_house.backend.prepared_models = None
    assert ("openvino", 32) == engine_of(auto_house)
    lease(auto_house).release()
    assert ("llamacpp", 8) == engine_of(auto_house)


def test_a_preparation_that_fails_decides_as_far_as_it_came(auto_house: House) -> None:
    """The refusals before the failure show in the reason."""

    def refuse(*_: Any) -> None:
        auto_house.backend.engines["tiny"] = "llamacpp"
        raise PreparationFailed("all refused")

    auto_house.backend.on_prepare = refuse
    with pytest.raises(PreparationFailed):
        lease(auto_house)
    assert ("llamacpp", 8) == engine_of(auto_house)


def test_a_deletion_takes_the_decision_back(auto_house: House) -> None:
    """The next files are looked at again; until then the source's name decides."""
    decide(auto_house, "llamacpp")
    for _ in auto_house.supervisor.pull("tiny"):
        pass
    assert ("llamacpp", 8) == engine_of(auto_house)
    auto_house.backend.engines.clear()
    auto_house.backend.delete_files = lambda model_id: 0  # type: ignore[method-assign]
    auto_house.supervisor.delete_files("tiny")
    assert "openvino" == auto_house.supervisor.entry("tiny").engine


def test_a_reload_keeps_the_decision(auto_house: House) -> None:
    """An entry that changes in another key is still served by the engine that its files decided."""
    auto_house.backend.engines["tiny"] = "llamacpp"
    changed = replace(SPEC, idle_timeout_s=5.0)
    auto_house.supervisor.change({**auto_house.specs, "tiny": changed}, remade=())
    assert ("llamacpp", 8) == engine_of(auto_house)
    assert 5.0 == auto_house.supervisor.entry("tiny").idle_timeout_s
