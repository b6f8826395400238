"""An engine's facts stand in its template: the controller and the set-up know no engine by its name."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from controller.deployment.engine_templates import engine_names
from controller.settings import ROOT

NAMES = sorted(engine_names(ROOT / "templates"))


def words_of(source: str) -> Iterator[str]:
    """Names of engines in a file's code: as a word of a text, docstrings included, or within an identifier."""
    texts, identifiers = [], []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            texts.append(node.value)
        identifiers += [
            value
            for field in ("id", "attr", "arg", "name", "asname", "module")
            if isinstance(value := getattr(node, field, None), str)
        ]
    for name in NAMES:
        # Not `openvino_model.xml`: what a file is called is no engine.
        word = re.compile(rf"(?<!\w){re.escape(name)}(?!\w)")
        if any(map(word.search, texts)) or any(name in identifier.lower() for identifier in identifiers):
            yield name


def test_no_code_names_an_engine() -> None:
    """Neither `controller/` nor `scripts/` holds an engine's name, so a new engine needs no change of either."""
    places = {
        (str(file.relative_to(ROOT)), name)
        for folder in ("controller", "scripts")
        for file in sorted((ROOT / folder).rglob("*.py"))
        for name in words_of(file.read_text(encoding="utf-8"))
    }
    assert set() == places


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ('def f():\n    """Starts openvino."""', ["openvino"]),
        ('x = f"orchestrar:{y} transformers"', ["transformers"]),
        ("VLLM_PORT = 1", ["vllm"]),
        ("def f(*, for_llamacpp): pass", ["llamacpp"]),
        ("import transformers.models as m", ["transformers"]),
        ('x = "openvino_model.xml"  # vllm', []),
        ('"""OpenVINO\'s form."""', []),
    ],
)
def test_a_name_is_noticed(source: str, expected: list[str]) -> None:
    """Texts, docstrings and identifiers count; comments, file names and the products' own spelling do not."""
    assert expected == list(words_of(source))
