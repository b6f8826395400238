"""The Compose file: golden cases, and the property that it means what was intended, whatever the values."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from controller.deployment.engine_templates import engine_names, read_engines
from controller.deployment.engines import Engine
from controller.deployment.rendering.memory_limits import memory_limit_bytes, room_for_gguf
from controller.deployment.rendering.render import render
from controller.deployment.rendering.target import ModelFiles, Target
from controller.errors import ConfigInvalid
from controller.registry import ModelSpec, Resources, load_registry
from controller.registry.source_ref import FileSource
from controller.registry.spec import ChatTemplateFile
from controller.settings import ROOT
from tests.engines import ALL_ENGINES
from tests.fakes import make_spec
from tests.intent import HARDENED, intended_file

TEMPLATES = ROOT / "templates"
GOLDEN = Path(__file__).parent / "golden"
CONFIG = Path("/config")
GIB = 1 << 30


def render_text(targets: list[Target], templates: Path = TEMPLATES, max_cpus: float = 64.0) -> str:
    return render(targets, project="orchestrar", stop_grace_s=30, templates_dir=templates, max_cpus=max_cpus)


def golden_targets(case: Path) -> list[Target]:
    """Every model of a golden case: GGUF files are prepared for our runner, the rest is mounted, ports from 8001."""
    engines = read_engines(TEMPLATES)
    registry = load_registry(case / "models.yaml", engines=engines)
    targets = []
    for number, spec in enumerate(map(without_checkout, registry.models.values())):
        path = Path("/data") / spec.id / Path(str(spec.source)).name
        gguf = path.name.endswith(".gguf")
        engine = engines[spec.engine]
        files = ModelFiles(
            source=path,
            source_is_folder=not gguf,
            source_bytes=100_000_000,
            file_to_load=engine.file_to_load([path.name]),
            volume=f"orchestrar_{spec.id}.{spec.engine}.0123456789ab" if gguf and engine.own else None,
            weights_bytes=270_000_000,
        )
        targets.append(Target(spec=spec, port=spec.port or 8001 + number, files=files))
    return targets


def without_checkout(spec: ModelSpec) -> ModelSpec:
    """Return the spec with its chat template, if it has one, in a folder that is the same on each machine."""
    template = spec.chat_template
    return (
        spec if template is None else replace(spec, chat_template=replace(template, path=CONFIG / template.path.name))
    )


@pytest.mark.parametrize("case", sorted(GOLDEN.iterdir()), ids=lambda case: case.name)
def test_golden(case: Path) -> None:
    """The file for a known models.yaml is byte for byte the one that was reviewed (a folder is a case)."""
    assert (case / "compose.yaml").read_text(encoding="utf-8") == render_text(golden_targets(case))


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
IDS = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,20}", fullmatch=True).filter(lambda text: ".." not in text)
NAMES = st.from_regex(r"[A-Za-z][A-Za-z0-9_]{0,10}", fullmatch=True).map(lambda name: f"USER_{name}")


@st.composite
def targets(draw: st.DrawFn) -> Target:
    """Any model, with any text where text is allowed."""
    spec = ModelSpec(
        id=draw(IDS),
        engine="transformers",
        source=FileSource(Path("/m")),
        image=draw(st.none() | TEXT.filter(bool)),
        env=draw(st.dictionaries(NAMES, TEXT, max_size=3)),
        resources=Resources(
            cpus=draw(st.floats(0.1, 64)),
            memory_bytes=draw(st.integers(1 << 20, 1 << 45)),
            gpus=draw(st.integers(0, 8)),
        ),
        start_timeout_s=draw(st.floats(1, 1000)),
    )
    file_names = TEXT.filter(lambda text: "/" not in text and text not in ("", ".", ".."))
    name = draw(file_names)
    template = ChatTemplateFile(path=CONFIG / draw(file_names), sha256=draw(TEXT))
    if draw(st.booleans()):
        spec = replace(spec, chat_template=template)
    files = ModelFiles(
        source=Path("/data") / name,
        source_is_folder=draw(st.booleans()),
        parts=draw(st.sampled_from([(), ("m-00001-of-00002.gguf", "m-00002-of-00002.gguf")])),
        source_bytes=draw(st.none() | st.integers(0, 1 << 40)),
        volume=f"orchestrar_{spec.id}.x" if draw(st.booleans()) else None,
    )
    return Target(spec=spec, port=draw(st.integers(1024, 65535)), files=files)


def undoubled(value: Any) -> Any:
    """Compose's reading of `$$`."""
    if isinstance(value, str):
        return value.replace("$$", "$")
    if isinstance(value, list):
        return [undoubled(item) for item in value]
    if isinstance(value, dict):
        return {undoubled(key): undoubled(item) for key, item in value.items()}
    return value


@given(st.lists(targets(), min_size=1, max_size=4, unique_by=lambda target: target.spec.id))
def test_the_parsed_file_equals_the_intent(models: list[Target]) -> None:
    """For any valid configuration the parsed file is the intended one: no value adds a key or changes a type."""
    file = undoubled(yaml.safe_load(render_text(models)))
    intended = intended_file(models, "orchestrar")
    for target in models:
        service = file["services"][target.spec.id]
        environment = service.pop("environment")
        assert target.spec.env == {key: value for key, value in environment.items() if key.startswith("USER_")}
        assert environment["ORCHESTRAR_MODEL_ID"] == target.spec.id
        assert environment["HF_HUB_OFFLINE"] == "1"
        template = target.spec.chat_template
        assert environment.get("ORCHESTRAR_CHAT_TEMPLATE") == (template and f"/chat-template/{template.path.name}")
        assert service.pop("healthcheck")["start_period"] == f"{int(target.spec.start_timeout_s)}s"
        if target.files.volume:
            preparing = file["services"][f"{target.spec.id}..prepare"]
            assert preparing.pop("mem_limit") == preparing.pop("memswap_limit") >= GIB
            assert preparing.pop("environment")["ORCHESTRAR_MODEL_ID"] == target.spec.id
    assert intended == file


@given(
    st.sampled_from(["llamacpp", "vllm"]),
    IDS,
    st.lists(TEXT, max_size=3),
    st.dictionaries(NAMES, TEXT, max_size=3),
    TEXT,
)
def test_a_third_party_server_gets_its_values_unchanged(
    engine: str, model_id: str, args: list[str], env: dict[str, str], image: str
) -> None:
    """Arguments, environment and image reach its service as they are written, whatever their text."""
    spec = make_spec(model_id, engine=engine, args=tuple(args), env=env, image=image or None)
    service = undoubled(yaml.safe_load(render_text([Target(spec=spec, port=8001, files=one_target().files)])))[
        "services"
    ]
    command = service[model_id]["command"]
    assert (list(args), model_id in command) == (command[len(command) - len(args) :], True)
    assert env == {name: text for name, text in service[model_id]["environment"].items() if name.startswith("USER_")}
    assert (image or read_engines(TEMPLATES)[engine].image) == service[model_id]["image"]


@given(st.lists(targets(), max_size=3, unique_by=lambda target: target.spec.id))
def test_rendering_is_deterministic(models: list[Target]) -> None:
    """The same input gives the same bytes."""
    assert render_text(models) == render_text(models)


def test_a_raw_value_is_refused(tmp_path: Path) -> None:
    """A template that writes a value without the JSON filter is an error, not a file."""
    shutil.copytree(TEMPLATES, tmp_path / "t")
    template = tmp_path / "t" / "engines" / "transformers.yaml.j2"
    template.write_text(template.read_text() + "    hostname: {{ model.id }}\n")
    with pytest.raises(ConfigInvalid, match="without the json filter"):
        render_text([one_target()], tmp_path / "t")


def test_a_misspelt_value_is_refused(tmp_path: Path) -> None:
    """A template that names a value that does not exist is an error, not an empty string."""
    shutil.copytree(TEMPLATES, tmp_path / "t")
    template = tmp_path / "t" / "engines" / "transformers.yaml.j2"
    template.write_text(template.read_text() + "    hostname: {{ model.idd | json }}\n")
    with pytest.raises(ConfigInvalid, match="has no attribute 'idd'"):
        render_text([one_target()], tmp_path / "t")


def test_a_small_machine_bounds_the_cpus() -> None:
    """A model asks for no more CPUs than the machine has, because Docker would refuse to create its container."""
    service = yaml.safe_load(render_text([one_target()], max_cpus=1.0))["services"]["tiny"]
    assert (service["cpus"], service["environment"]["ORCHESTRAR_CPUS"]) == (1.0, "1")


def test_templates_are_the_engines() -> None:
    """Each template is an engine, and nothing else in the folder is one."""
    assert engine_names(TEMPLATES) == {"llamacpp", "openvino", "transformers", "vllm"}


@pytest.mark.parametrize("name", sorted(engine_names(TEMPLATES)))
def test_no_template_relaxes_silently(name: str) -> None:
    """/status shows everything in which an engine's container differs from the hardening of all."""
    text = render_text([Target(spec=make_spec(engine=name), port=8001, files=one_target().files)])
    service = yaml.safe_load(text)["services"]["tiny"]
    always = {
        "image",
        "profiles",
        "labels",
        "cpus",
        "mem_limit",
        "memswap_limit",
        "ports",
        "networks",
        "dns",
        "volumes",
    }
    own = {key: service[key] for key in set(service) - always - {"command", "environment", "healthcheck"}}
    engine = read_engines(TEMPLATES)[name]
    relaxations = {relaxation["what"].partition(":")[0] for relaxation in engine.describe_relaxations()}
    assert {key for key in own if own[key] != HARDENED.get(key)} == relaxations
    assert ([{**service["ports"][0], "target": 0}], service["networks"], service["dns"], len(service["volumes"])) == (
        [{"target": 0, "published": "8001", "host_ip": "127.0.0.1", "protocol": "tcp"}], ["models"], ["127.0.0.1"], 1
    )  # fmt: skip


def one_target(**files: Any) -> Target:
    values: dict[str, Any] = {"source": Path("/data/m"), "source_is_folder": True, **files}
    return Target(spec=make_spec(), port=8001, files=ModelFiles(**values))


def limit_of(spec: ModelSpec, files: ModelFiles, engine: Engine | None = None) -> int:
    return memory_limit_bytes(Target(spec=spec, port=8001, files=files), engine or ALL_ENGINES[spec.engine])


class TestMemory:
    def test_an_explicit_limit_counts(self) -> None:
        """`resources.memory` is the limit as it is."""
        spec = make_spec(resources=Resources(memory_bytes=5 * GIB))
        assert limit_of(spec, one_target().files) == 5 * GIB

    def test_before_the_download_there_is_a_default(self) -> None:
        """A model of unknown size gets 4 GiB."""
        assert limit_of(make_spec(), one_target().files) == 4 * GIB

    def test_it_grows_with_weights_context_and_width(self) -> None:
        """Weights count 1.3 times in the width in which they are loaded, and the KV cache by the context."""
        facts = {"weights_bytes": 2 * GIB, "parameters": GIB, "kv_bytes_per_token": 1 << 16, "context_length": 8192}
        files = one_target(**facts).files
        narrow = limit_of(make_spec(dtype="bfloat16"), files)
        assert narrow == pytest.approx(1.3 * 2 * GIB + GIB + 640 * (1 << 20), rel=0.02)
        wide = limit_of(make_spec(dtype="float32"), files)
        assert wide - narrow == pytest.approx(1.3 * 2 * GIB, rel=0.02)
        short = limit_of(make_spec(dtype="bfloat16", context_length=1024), files)
        assert short < narrow
        embedder = limit_of(make_spec(dtype="bfloat16", task="embedding"), files)
        assert embedder == pytest.approx(1.3 * 2 * GIB + GIB, rel=0.02)

    def test_a_cache_of_unknown_size_counts(self) -> None:
        """For files that were not converted a common size counts, as wide as the dtype."""
        facts = {"weights_bytes": GIB, "parameters": GIB // 2, "context_length": 8192}
        unknown_cache, known_cache = (one_target(**facts, kv_bytes_per_token=size).files for size in (0, 1 << 16))
        assert limit_of(make_spec(dtype="float32"), unknown_cache) == limit_of(make_spec(dtype="float32"), known_cache)
        narrow = limit_of(make_spec(dtype="bfloat16"), unknown_cache)
        assert narrow == pytest.approx(1.3 * GIB + 0.5 * GIB + 640 * (1 << 20), rel=0.02)

    def test_openvino_counts_the_weights_as_they_are(self) -> None:
        """Its weights stay as narrow as in the file, whatever the dtype, and its cache of unknown size has 16 bits."""
        files = one_target(weights_bytes=GIB, parameters=2 * GIB, kv_bytes_per_token=1 << 15, context_length=8192).files
        limit = limit_of(make_spec(engine="openvino", dtype="float32"), files)
        assert limit == pytest.approx(1.3 * GIB + 0.5 * GIB + 448 * (1 << 20), rel=0.05)
        unknown = one_target(weights_bytes=GIB).files
        assert limit_of(make_spec(engine="openvino", dtype="float32"), unknown) == limit

    def test_a_third_party_server_reserves_for_all(self) -> None:
        """Weights as they are in the file, a context for each request in flight, and the template's overhead."""
        engine = Engine(routes=["/v1/completions"], overhead_mib=512)
        files = one_target(weights_bytes=GIB).files
        spec = make_spec(engine="llamacpp", context_length=8192, max_concurrency=4)
        assert limit_of(spec, files, engine) == pytest.approx(1.3 * GIB + GIB + 0.5 * GIB, rel=0.05)
        assert limit_of(spec, one_target().files, engine) == 4 * GIB
        assert limit_of(make_spec(resources=Resources(memory_bytes=5)), files, engine) == 5


def test_a_file_with_the_most_room_fits_the_budget() -> None:
    """The estimate for the largest file that may be taken is the budget, up to the estimate's own step of 64 MiB."""
    spec, budget_bytes = make_spec("m", engine="openvino"), 8 << 30
    room = room_for_gguf(spec, ALL_ENGINES["openvino"], lambda: budget_bytes)
    assert room is not None
    files = ModelFiles(source=Path("/m"), source_is_folder=True, weights_bytes=room.most_bytes)
    assert budget_bytes - (64 << 20) <= limit_of(spec, files) <= budget_bytes
    assert "the memory budget of 8.0 GiB" == room.bound


def test_a_limit_of_the_entry_is_not_asked_of_the_budget() -> None:
    """Only weights that 1.3 times do not fit into `resources.memory` are too large."""
    spec = make_spec("m", engine="llamacpp", resources=Resources(memory_bytes=1300))
    room = room_for_gguf(spec, ALL_ENGINES["llamacpp"], lambda: pytest.fail("it asked for the budget"))
    assert room is not None
    assert 1000 == room.most_bytes


@pytest.mark.parametrize(("engine", "gpus"), [("transformers", 0), ("llamacpp", 1)])
def test_some_weights_are_not_bounded_by_their_file(engine: str, gpus: int) -> None:
    """transformers widens them, and GPUs hold them: no quantisation changes what the container needs."""
    spec = make_spec("m", engine=engine, resources=Resources(gpus=gpus))
    assert room_for_gguf(spec, ALL_ENGINES[engine], lambda: 1) is None
