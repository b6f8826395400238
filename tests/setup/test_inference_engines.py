"""What the set-up reads from the engines' templates, without Jinja."""

from __future__ import annotations

from pathlib import Path

import pytest

from controller.deployment.engine_templates import read_engines
from controller.settings import ROOT
from scripts.setup.inference_engines import built_engines, read_facts

TEMPLATES = ROOT / "templates"


def test_it_reads_what_the_controller_reads() -> None:
    """The names, images and compilers of shipped engines are those of the controller's reading with Jinja."""
    expected = {
        name: (engine.image, engine.build.compiler, engine.own)
        for name, engine in read_engines(TEMPLATES).items()
        if engine.build
    }
    assert expected == {name: (e.image, e.needs_compiler, e.is_own) for name, e in built_engines(TEMPLATES).items()}
    assert expected


@pytest.mark.parametrize("name", sorted(built_engines(TEMPLATES)))
def test_each_has_its_recipe(name: str) -> None:
    """The set-up finds a target of our runner's Dockerfile, or the server's own folder, under the engine's name."""
    is_own = built_engines(TEMPLATES)[name].is_own
    folder = ROOT / "runner" if is_own else ROOT / "servers" / name
    assert f" AS {name}\n" in (folder / "Dockerfile").read_text(encoding="utf-8")
    assert (folder / (f"requirements-{name}.txt" if is_own else "requirements.txt")).is_file()


def test_a_servers_image_is_named_by_its_version() -> None:
    """So that another version in the template is another image, which is then built."""
    for name, engine in built_engines(TEMPLATES).items():
        if not engine.is_own:
            pins = (ROOT / "servers" / name / "requirements.txt").read_text(encoding="utf-8")
            assert f"=={engine.image.rpartition(':')[2]}\n" in pins


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (
            "{# a comment #}\n{%- set engine = {'a': true, \"b\": [none, false,],} -%}\n    x: y",
            {"a": True, "b": [None, False]},
        ),
        ("{% set engine = {'text': 'true'} %}", {"text": "true"}),
        ("{% set engine = model.engine %}", {}),
        ("{% set engine = {'a': nothing} %}", {}),
        ("{% set engine = {'a': %}", {}),
        ("{% set engine = 3 %}", {}),
        ("{% set other = {} %}", {}),
    ],
)
def test_literals_alone_are_read(template: str, expected: dict[str, object]) -> None:
    """Jinja's constants count as Python's; whatever is no literal is left to the controller to refuse."""
    assert expected == read_facts(template)


def test_an_engine_that_is_built_elsewhere_is_left_out(tmp_path: Path) -> None:
    """Only a template with an image and with `build` names something to build."""
    (tmp_path / "engines").mkdir()
    for name, facts in {"a": "{'build': {}}", "b": "{'image': 'x'}", "c": "{'image': 'x', 'build': {}}"}.items():
        (tmp_path / "engines" / f"{name}.yaml.j2").write_text(f"{{% set engine = {facts} %}}")
    assert ["c"] == list(built_engines(tmp_path))
