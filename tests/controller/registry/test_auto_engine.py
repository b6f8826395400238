"""The rules by which `engine: auto` chooses, apart from the engines that ship."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from controller.registry.engine_facts import AutoRule
from controller.registry.file.auto_engine import auto_candidates, auto_engine
from controller.registry.source_ref import parse_source
from controller.registry.spec import Candidate


@dataclass(frozen=True)
class Facts:
    """An engine that serves chats."""

    auto: AutoRule | None
    tasks: tuple[str, ...] = ("chat",)
    max_concurrency: int = 8


ENGINES = {
    "last": Facts(AutoRule(order=9), tasks=("chat", "embedding")),
    "narrow": Facts(AutoRule(order=1, sources=["hf://owner/*", "*.onnx"], gpus=False)),
    "named-only": Facts(None, tasks=("chat", "completion", "embedding")),
    "wide": Facts(AutoRule(order=5, gpus=False)),
}


@pytest.mark.parametrize(
    ("source", "task", "gpus", "expected"),
    [
        ("hf://Owner/name@v1", "chat", 0, "narrow"),
        ("file:///m/model.ONNX", "chat", 0, "narrow"),
        ("hf://other/name", "chat", 0, "wide"),
        ("hf://owner/name", "chat", 1, "last"),
        ("hf://owner/name", "embedding", 0, "last"),
        ("hf://owner/name", "completion", 0, None),
        ("hf://other/name@owner.onnx", "chat", 0, "wide"),
    ],
)
def test_the_lowest_order_that_takes_the_model_wins(source: str, task: str, gpus: int, expected: str | None) -> None:
    """Source, task and GPUs decide; the revision does not, and an engine without a rule is never chosen."""
    assert expected == auto_engine(parse_source(source), task=task, gpus=gpus, engines=ENGINES)


@pytest.mark.parametrize(
    ("task", "gpus", "expected"),
    [("chat", 0, ["narrow", "wide", "last"]), ("chat", 1, ["last"]), ("embedding", 0, ["last"]), ("completion", 0, [])],
)
def test_the_source_does_not_limit_the_candidates(task: str, gpus: int, expected: list[str]) -> None:
    """Task and GPUs do, since the files are not known yet; each candidate has the places of its engine."""
    candidates = auto_candidates(task=task, gpus=gpus, engines=ENGINES)
    assert expected == [candidate.engine for candidate in candidates]
    assert all(candidate.max_concurrency == 8 for candidate in candidates)


def test_a_candidate_takes_files_by_their_names() -> None:
    """One file with a name that it needs is enough, in capitals or small; without patterns it takes any files."""
    candidate = Candidate(engine="narrow", max_concurrency=1, files=("*.gguf", "openvino_model.xml"))
    assert candidate.takes(["README.md", "Model.GGUF"])
    assert candidate.takes(["openvino_model.xml"])
    assert not candidate.takes(["other_model.xml", "gguf"])
    assert Candidate(engine="wide", max_concurrency=1).takes(["anything"])
