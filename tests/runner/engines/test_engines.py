"""How an engine is found by its name."""

from __future__ import annotations

from pathlib import Path

import pytest

import runner.convert
import runner.engines
from controller.deployment.engine_templates import read_engines
from controller.settings import ROOT
from runner.convert import converter_for
from runner.engine import EngineError
from runner.engines import make_engine
from runner.settings import RunnerSettings

OWN = {name: engine for name, engine in read_engines(ROOT / "templates").items() if engine.own}


def settings(engine: str) -> RunnerSettings:
    return RunnerSettings(model_id="tiny", model_path=Path("/model"), engine=engine)


@pytest.mark.parametrize("name", sorted(OWN))
def test_each_template_of_ours_has_its_engine_and_its_converter(name: str) -> None:
    """The engine of a template is made without its library, and what it converts has a converter."""
    assert make_engine(settings(name)).failure() is None
    if OWN[name].converts:
        assert callable(converter_for(name))


@pytest.mark.parametrize("name", ["vllm", "", "chat_template", "openvino.engine", "../transformers"])
def test_an_unknown_engine_is_refused_with_the_known_ones(name: str) -> None:
    """Only a folder of `runner/engines` is an engine: no other module is imported, whatever the name."""
    with pytest.raises(EngineError, match=r"it has: openvino, transformers$"):
        make_engine(settings(name))


def test_a_folder_and_a_module_are_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new engine is found by its folder, and its converter by its module; no table names them."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "__init__.py").write_text("def make_engine(settings):\n    return settings.task\n")
    (tmp_path / "to_mine.py").write_text("def convert(gguf, weights, *, dtype, on_progress):\n    return {}\n")
    for package in (runner.engines, runner.convert):
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    engine: object = make_engine(settings("mine"))
    assert "chat" == engine
    facts: object = converter_for("mine")(tmp_path, tmp_path, dtype="float32", on_progress=lambda _: None)
    assert {} == facts
