"""The facts that a template states about its engine, and what they check in models.yaml."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from controller.composition import read_registry
from controller.deployment.engine_templates import read_engines
from controller.deployment.engines import Engine, is_pinned
from controller.errors import ConfigInvalid
from controller.settings import ROOT, Settings
from tests.engines import ALL_ENGINES

DOCS = ROOT / "docs" / "engines.md"
DIGEST = "sha256:" + "ab" * 32
MINIMAL = """{% set engine = {"routes": ["/v1/completions"]} %}
    environment: {}
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """With templates of its own, among them an engine `mine` that is one file, without an image."""
    shutil.copytree(ROOT / "templates", tmp_path / "templates")
    (tmp_path / "templates" / "engines" / "mine.yaml.j2").write_text(MINIMAL)
    return Settings(config_file=tmp_path / "models.yaml", templates_dir=tmp_path / "templates", data_dir=tmp_path)


def problems(settings: Settings, keys: str) -> str:
    """Return what is wrong with one model that has these keys."""
    settings.config_file.write_text(f"models:\n  m:\n    source: file:///m.gguf\n    {keys}\n")
    with pytest.raises(ConfigInvalid) as error_info:
        read_registry(settings)
    (problem,) = error_info.value.problems
    return problem


def accept(settings: Settings, keys: str) -> None:
    settings.config_file.write_text(f"models:\n  m:\n    source: file:///m.gguf\n    {keys}\n")
    assert "m" in read_registry(settings).models


def test_the_shipped_templates_state_their_facts() -> None:
    """Two are ours; the others name their routes and an image that cannot change, or that is built here."""
    engines = read_engines(ROOT / "templates")
    assert {"openvino", "transformers"} == {name for name, engine in engines.items() if engine.own}
    for engine in (engines["llamacpp"], engines["vllm"]):
        assert engine.image is not None
        assert engine.build is not None or is_pinned(engine.image)
        assert "/v1/chat/completions" in engine.routes


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("    image: x\n", "is not set; begin the template with {% set engine"),
        ("{% set engine = {} %}", "routes: name what the server serves"),
        ("{% set engine = {'routes': [], 'own': false} %}", "routes: name what the server serves"),
        ("{% set engine = {'routes': ['/v1/completions'], 'image': 'x:latest'} %}", "a tag may mean another image"),
        ("{% set engine = {'routes': ['/v1/completions'], 'prot': 8000} %}", "engine.prot: Extra inputs"),
        ("{% set engine = {'routes': ['/v1/completions'], 'port': '80'} %}", "engine.port: Input should be"),
        ("{% set engine = {'routes': ['/v1/completions'], 'ready': 'health'} %}", "engine.ready: String should match"),
        ("{% set engine = {'own': true, 'relaxed': {'tmpfs': {'to': []}}} %}", "engine.relaxed.tmpfs.why: Field"),
        (
            "{% set engine = {'own': true, 'relaxed': {'privileged': {'to': true, 'why': 'it is easier'}}} %}",
            "engine.relaxed.privileged",
        ),
        (
            "{% set engine = {'own': true, 'relaxed': {'ipc': {'to': 'host', 'why': 'it is easier'}}} %}",
            "engine.relaxed.ipc",
        ),
        ("{% set engine = {'routes': ['/v1/completions'], 'converts': ['gguf']} %}", "converts: only our own runner"),
        ("{% set engine = {'own': true, 'converts': ['.gguf']} %}", "engine.converts.0: String should match"),
        ("{% set engine = {'own': true, 'tasks': ['chat', 'draw']} %}", "engine.tasks.1: Input should be"),
        ("{% set engine = {'own': true, 'auto': {'sources': ['*']}} %}", "engine.auto.order: Field required"),
        ("{% set engine = {'own': true, 'build': {'compilers': 1}} %}", "engine.build.compilers: Extra inputs"),
        ("{% set engine = {'routes': ['/v1/completions'], 'chat_template': true} %}", "pass `model.chat_template` to"),
        (MINIMAL + "    privileged: true\n", "the template writes `privileged`; name it in `relaxed`"),
        (MINIMAL + '    "user": "0:0"\n', "the template writes `user`"),
        ("{% set engine = model.engine %}", "is not made of plain values"),
        ("{% set engine = ", "engine: "),
    ],
)
def test_a_broken_template_is_reported(settings: Settings, template: str, message: str) -> None:
    """The error has the file, the field and what is wrong, before anything starts."""
    path = settings.templates_dir / "engines" / "mine.yaml.j2"
    path.write_text(template)
    problem = problems(settings, "engine: transformers")
    assert problem.startswith(f"{path}: engine")
    assert message in problem


def test_a_server_that_is_built_here_has_a_tag(settings: Settings) -> None:
    """What the tag means is decided by this checkout; a model's own `image:` still needs a digest."""
    path = settings.templates_dir / "engines" / "mine.yaml.j2"
    path.write_text("{% set engine = {'routes': ['/v1/completions'], 'image': 'mine:1', 'build': {}} %}")
    accept(settings, "engine: mine")
    assert "a tag may mean another image tomorrow" in problems(settings, "engine: mine\n    image: mine:2")


def test_a_changed_template_is_read_again(settings: Settings) -> None:
    """No fact of the earlier template stays."""
    path = settings.templates_dir / "engines" / "mine.yaml.j2"
    assert 8000 == read_engines(settings.templates_dir)["mine"].port
    path.write_text(MINIMAL.replace("{", '{"port": 9, ', 2).replace('{"port": 9, %', "{%", 1))
    assert 9 == read_engines(settings.templates_dir)["mine"].port


class TestImages:
    def test_a_tag_is_refused_with_the_remedy(self, settings: Settings) -> None:
        """A tag may mean another image tomorrow."""
        problem = problems(settings, "engine: llamacpp\n    image: host.example/llama:server")
        assert 'models.m.image: is the text "host.example/llama:server"' in problem
        assert "write host.example/llama:server@sha256:…" in problem

    @pytest.mark.parametrize("image", [f"host.example/llama@{DIGEST}", f"llama:server@{DIGEST}", DIGEST])
    def test_a_digest_or_an_id_is_allowed(self, settings: Settings, image: str) -> None:
        """A digest with or without a tag, or the id of an image that was loaded by hand."""
        accept(settings, f"engine: llamacpp\n    image: {image}")

    def test_an_engine_without_an_image_needs_one(self, settings: Settings) -> None:
        """A template may leave the image to models.yaml, which then has to name it."""
        assert "models.m.image: the mine engine brings none" in problems(settings, "engine: mine")
        accept(settings, f"engine: mine\n    image: {DIGEST}")

    def test_our_own_are_built_here(self, settings: Settings) -> None:
        """Our runner's images have tags."""
        accept(settings, "engine: transformers\n    image: orchestrar-runner:mine")


def test_only_a_third_party_server_takes_arguments(settings: Settings) -> None:
    """Our runner takes all its settings from the environment."""
    assert "the openvino engine takes none" in problems(settings, 'engine: openvino\n    args: ["--x"]')
    accept(settings, 'engine: llamacpp\n    args: ["--x"]')
    assert "are for one engine; write which one" in problems(settings, 'args: ["--x"]')


def test_only_servers_of_whole_folders_know_their_quantisations() -> None:
    """Our engines' are known here, and llama.cpp gets a GGUF file."""
    assert {"vllm"} == {name for name, engine in ALL_ENGINES.items() if engine.reads_any_weights}


def test_an_engine_that_takes_no_chat_template_is_named(settings: Settings) -> None:
    """It would use the model's own one, and nothing would show it. With `auto` this holds for each engine."""
    (settings.config_file.parent / "own.jinja").write_text("{{ messages }}")
    for engine in ("openvino", "transformers", "llamacpp", "vllm", "auto"):
        accept(settings, f"engine: {engine}\n    chat_template: own.jinja")
    keys = f"engine: mine\n    image: {DIGEST}\n    chat_template: own.jinja"
    assert "models.m.chat_template: the mine engine takes none; remove it" in problems(settings, keys)
    path = settings.templates_dir / "engines" / "mine.yaml.j2"
    path.write_text(MINIMAL.replace('{"routes"', '{"auto": {"order": 9}, "image": "m@' + DIGEST + '", "routes"'))
    assert "the mine engine takes none" in problems(settings, "chat_template: own.jinja")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["model.gguf"], "model.gguf"),
        (["README.md", "Model.Q4.GGUF", "mmproj-model.gguf"], "Model.Q4.GGUF"),
        (["Q4/m.gguf", "parts/mmproj-F16.gguf", "m.imatrix.gguf", "imatrix.gguf"], "Q4/m.gguf"),
        (["m-lora-merged.gguf", "mmproj.gguf"], "m-lora-merged.gguf"),
        (["m.gguf", "lora/adapter.gguf"], "m.gguf"),
        (["m-imatrix-Q4_K_M.gguf", "imatrix_m.gguf"], "m-imatrix-Q4_K_M.gguf"),
        (["m-Q4_K_M-imatrix.gguf", "m-imatrix.gguf"], "m-Q4_K_M-imatrix.gguf"),
        (["mmproj.gguf"], None),
        (["m-00002-of-00002.gguf", "m-00001-of-00002.gguf"], "m-00001-of-00002.gguf"),
        (["a.gguf", "b.gguf"], None),
        (["model.safetensors"], None),
        ([], None),
    ],
)
def test_the_file_to_load_is_unambiguous(names: list[str], expected: str | None) -> None:
    """It is one file, or the first part of one, never a guess among several."""
    assert expected == Engine(routes=["/v1/completions"], loads="*.gguf").file_to_load(names)
    assert Engine(own=True).file_to_load(names) is None


def test_every_fact_is_documented() -> None:
    """docs/engines.md has a table row for each fact that a template may hold."""
    rows = [line.split("|")[1] for line in DOCS.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    facts = {field.alias or name for name, field in Engine.model_fields.items()}
    assert facts <= set(re.findall(r"`([a-z_]+)`", "".join(rows)))
