"""The schema of models.yaml for editors, and its documentation."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from pydantic import BaseModel

from controller.registry import load_registry
from controller.registry.file.file_model import DefaultsPart, GenerationPart, ModelPart, ModelsFile, ResourcesPart
from controller.registry.file.json_schema import SCHEMA_PATH, main, schema_text
from controller.settings import ROOT
from tests.engines import engine_facts

SHIPPED_FILE = ROOT / "config" / "models.yaml"
DOCS = ROOT / "docs" / "models-yaml.md"


def test_the_shipped_file_names_its_schema_for_editors() -> None:
    """The first line points editors at the schema beside the file."""
    first = SHIPPED_FILE.read_text(encoding="utf-8").splitlines()[0]
    assert first == "# yaml-language-server: $schema=./models.schema.json"


def test_the_schema_file_is_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    """The committed schema is the one that the classes generate."""
    assert schema_text() == SCHEMA_PATH.read_text(encoding="utf-8")
    assert main(["--check"]) == 0
    assert main(["--chek"]) == 2
    assert "usage" in capsys.readouterr().err


def schema_errors(value: Any) -> list[str]:
    validator = jsonschema.Draft7Validator(json.loads(schema_text()))
    return [error.json_path for error in validator.iter_errors(value)]


def test_editors_accept_the_shipped_file_and_mark_mistakes() -> None:
    """The schema is valid, accepts the shipped file, and rejects wrong ids, keys, types, durations and sizes."""
    jsonschema.Draft7Validator.check_schema(json.loads(schema_text()))
    assert schema_errors(yaml.safe_load(SHIPPED_FILE.read_text(encoding="utf-8"))) == []
    wrong = {"port": "8001", "idle_timeout": "soon", "resources": {"memory": "4 gigs"}, "env": {"HF_TOKEN": "x"}}
    for key, value in wrong.items():
        assert schema_errors({"models": {"a": {"source": "hf://o/n", key: value}}}), key
    assert schema_errors({"models": {"Upper": {"source": "hf://o/n"}}})
    assert schema_errors({"models": {"a": {"sauce": "hf://o/n"}}})


@pytest.mark.parametrize("part", [ModelsFile, DefaultsPart, ModelPart, ResourcesPart, GenerationPart])
def test_every_key_is_documented(part: type[BaseModel]) -> None:
    """docs/models-yaml.md has a table row for each key that the file may have."""
    page = DOCS.read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    keys = set(re.findall(r"`([a-z0-9_]+)`", "".join(rows)))
    assert set(part.model_fields) <= keys


def test_the_examples_of_the_documentation_load(tmp_path: Path) -> None:
    """Each whole file in the documentation is valid, and the last one shows every key."""
    examples = re.findall(r"```yaml\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.S)
    assert len(examples) == 3
    (tmp_path / "tiny-llama.jinja").write_text("{{ messages }}")
    for example in examples:
        path = tmp_path / "models.yaml"
        path.write_text(example, encoding="utf-8")
        load_registry(path, engines=engine_facts("transformers"))
    keys = set(re.findall(r"\b([a-z0-9_]+):", examples[-1]))
    assert set() == (set(ModelsFile.model_fields) | set(ModelPart.model_fields)) - keys
