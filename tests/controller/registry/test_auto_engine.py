"""The rules by which `engine: auto` chooses, apart from the engines that ship."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from controller.registry.engine_facts import AutoRule
from controller.registry.file.auto_engine import auto_engine
from controller.registry.source_ref import parse_source


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
