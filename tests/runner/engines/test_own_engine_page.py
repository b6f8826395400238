"""docs/engines-own.md: our engines have the files in its list, and its example is an engine that serves."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import runner.convert
import runner.engines
from controller.composition import read_registry
from controller.deployment.engine_templates import read_engines
from controller.settings import ROOT, Settings
from runner.engines import make_engine
from runner.prepare import prepare
from runner.settings import RunnerSettings
from scripts.setup.inference_engines import built_engines
from tests.runner.conftest import RunnerServer
from tests.runner.convert.test_gguf_header import NAME, gguf, number

PAGE = (ROOT / "docs" / "engines-own.md").read_text(encoding="utf-8")
FILES = re.findall(r"^\| `([^`]+)` \|", PAGE, re.MULTILINE)
OWN = {name: engine for name, engine in read_engines(ROOT / "templates").items() if engine.own}


def block_of(path: str) -> str:
    """Return the first code block after a paragraph that begins with this file's name."""
    match = re.search(rf"^`{re.escape(path)}`.*?\n```\w*\n(.*?)\n```$", PAGE, re.MULTILINE | re.DOTALL)
    assert match is not None, path
    return match.group(1) + "\n"


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Write the page's engine to a folder and add that to the runner's packages; yield the folder."""
    root = tmp_path / "example"
    shutil.copytree(ROOT / "templates", root / "templates")
    for path in FILES:
        if path.endswith((".py", ".j2")):
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(block_of(path), encoding="utf-8")
    for package, folder in ((runner.engines, "engines"), (runner.convert, "convert")):
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(root / "runner" / folder)])
    yield root
    for module in [module for module in sys.modules if re.search(r"\.(to_)?echo\b", module)]:
        del sys.modules[module]


@pytest.mark.parametrize("name", sorted(OWN))
def test_our_engines_have_the_listed_files(name: str) -> None:
    """Each engine that ships has the files of the page's table under its own name."""
    paths = [path.replace("echo", name) for path in FILES]
    assert len(paths) == 7
    assert [] == [path for path in paths if not (ROOT / path).is_file()]


def test_the_example_converts_and_serves(example: Path, serve: Callable[..., RunnerServer], tmp_path: Path) -> None:
    """Prepared from a GGUF file and served by the runner, it answers with its prompt, or a part of it."""
    (tmp_path / "source").mkdir()
    (tmp_path / "volume").mkdir()
    (tmp_path / "source" / "model.gguf").write_bytes(gguf([NAME, number("llama.context_length", 64)], [(2, 3)]))
    facts = prepare(tmp_path / "source", tmp_path / "volume", engine="echo", dtype="auto")
    assert (6, 64, "llama") == (facts["parameters"], facts["context_length"], facts["architecture"])

    settings = RunnerSettings(model_id="parrot", model_path=tmp_path / "volume" / "weights", engine="echo")
    engine = make_engine(settings)
    server = serve(engine)
    status, answer, _ = server.request("POST", "/inference", {"prompt": "Hello, parrot"})
    assert (200, "Hello, parrot", "stop") == (status, answer["text"], answer["finish_reason"])
    status, answer, _ = server.request("POST", "/inference", {"prompt": "Hello, parrot", "stop": ["rr"]})
    assert (200, "Hello, pa") == (status, answer["text"])
    status, answer, _ = server.request("POST", "/inference", {"prompt": "Hello, parrot", "max_tokens": 5})
    assert (200, "Hello", "length") == (status, answer["text"], answer["finish_reason"])
    engine.close()


def test_the_controller_and_the_setup_know_the_example(example: Path, tmp_path: Path) -> None:
    """Its template suffices for models.yaml and for `make up`."""
    config = tmp_path / "models.yaml"
    config.write_text(re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[-1], encoding="utf-8")
    settings = Settings(config_file=config, templates_dir=example / "templates", data_dir=tmp_path)
    assert "echo" == read_registry(settings).models["parrot"].engine
    assert "orchestrar-runner:echo" == built_engines(settings.templates_dir)["echo"].image
    (dockerfile,) = re.findall(r"```dockerfile\n(.*?)```", PAGE, re.DOTALL)
    assert " AS echo\n" in dockerfile
