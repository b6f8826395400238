"""Any valid configuration, written as YAML, loads to the values that it describes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controller.registry import GenerationDefaults, ModelSpec, Resources, load_registry
from controller.registry.file.json_schema import schema_text
from controller.registry.source_ref import HubSource, parse_source
from tests.engines import ALL_ENGINES, engine_facts

# `auto` means one engine here, whatever the source, and both have as many places.
SERVER = ALL_ENGINES["llamacpp"].model_copy(update={"auto": None, "max_concurrency": ModelSpec.max_concurrency})
ENGINES = {**engine_facts("transformers"), "llamacpp": SERVER}
VALIDATOR = jsonschema.Draft7Validator(json.loads(schema_text()))
TIMES = ("idle_timeout", "start_timeout", "max_wait", "min_residency")
DEFAULT_TIMES = {"idle_timeout": 900.0, "start_timeout": 120.0, "max_wait": 60.0, "min_residency": 10.0}

ids = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,20}(\.[a-z0-9])?", fullmatch=True)
# PyYAML's own dumper loses these three rare line breaks if it writes them unescaped.
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\x85\u2028\u2029"), max_size=30)
env_names = st.from_regex(r"[A-Z_][A-Z0-9_]{0,12}", fullmatch=True).filter(
    lambda name: not name.startswith(("HF_", "ORCHESTRAR_"))
)
durations = st.one_of(
    st.integers(1, 3600),
    st.integers(1, 60).map(lambda n: f"{n}m"),
    st.integers(1, 59).map(lambda n: f"{n // 2}m{n}s"),
)
sizes = st.one_of(st.integers(16 << 20, 1 << 40), st.integers(16, 9999).map(lambda n: f"{n}m"), st.just("1.5g"))
sources = st.sampled_from(["hf://owner/name", "hf://owner/name@v1", "pypi://a==1.0/b.gguf", "file:///data/m 1"])
generation = st.fixed_dictionaries(
    {},
    optional={
        "max_tokens": st.integers(1, 1_000_000),
        "temperature": st.floats(0, 2),
        "top_p": st.floats(0.0001, 1),
        "top_k": st.integers(0, 1000),
        "stop": texts.filter(bool) | st.lists(texts.filter(bool), max_size=8),
        "seed": st.integers(0, 2**63 - 1),
    },
)
models = st.fixed_dictionaries(
    {"source": sources},
    optional={
        "engine": st.sampled_from(["auto", *ENGINES]),
        "task": st.sampled_from(["chat", "completion", "embedding"]),
        "preload": st.booleans(),
        "pinned": st.booleans(),
        "dtype": st.sampled_from(["auto", "bfloat16", "float16", "float32"]),
        "context_length": st.integers(16, 1 << 24),
        "max_concurrency": st.integers(1, 1024),
        "max_queue": st.integers(0, 100_000),
        "generation": generation,
        "resources": st.fixed_dictionaries(
            {}, optional={"cpus": st.floats(0.1, 1024), "memory": sizes, "gpus": st.integers(0, 64)}
        ),
        "env": st.dictionaries(env_names, texts, max_size=4),
        "args": st.lists(texts, max_size=4),
        "image": st.sampled_from(["orchestrar-runner:latest", "localhost:5000/a/b@sha256:" + "0" * 64]),
        **dict.fromkeys(TIMES, durations),
    },
)


@st.composite
def files(draw: st.DrawFn) -> dict[str, Any]:
    """Return a valid file: models with unique ids, aliases and ports, and perhaps defaults."""
    names = draw(st.lists(ids, min_size=1, max_size=6, unique=True))
    count = draw(st.integers(1, len(names)))
    parts: dict[str, dict[str, Any]] = {name: draw(models) for name in names[:count]}
    for alias in names[count:]:
        parts[draw(st.sampled_from(names[:count]))].setdefault("aliases", []).append(alias)
    for port, part in enumerate(parts.values(), start=draw(st.integers(1024, 60000))):
        if draw(st.booleans()):
            part["port"] = port
    rest = st.fixed_dictionaries(
        {}, optional={"defaults": st.fixed_dictionaries({}, optional=dict.fromkeys(TIMES, durations))}
    )
    return {**draw(rest), "models": parts}


def seconds(value: int | str) -> float:
    if isinstance(value, int):
        return float(value)
    minutes, _, rest = value.partition("m")
    return int(minutes) * 60.0 + float(rest.removesuffix("s") or 0)


def size(value: int | str | None) -> int | None:
    if isinstance(value, str):
        return 3 << 29 if value == "1.5g" else int(value.removesuffix("m")) << 20
    return value


def expected_spec(name: str, part: dict[str, Any], defaults: dict[str, Any]) -> ModelSpec:
    """Return the spec, computed without the code under test."""
    same = {key: part[key] for key in part if key in ModelSpec.__dataclass_fields__}
    same.update({key: tuple(same[key]) for key in ("aliases", "args") if key in same})
    times = {**DEFAULT_TIMES, **{key: seconds(value) for key, value in defaults.items()}}
    times.update({key: seconds(part[key]) for key in TIMES if key in part})
    given_generation = dict(part.get("generation", {}))
    stop = given_generation.pop("stop", [])
    resources = part.get("resources", {})
    same |= {
        "source": parse_source(part["source"]),
        "engine": part.get("engine", "auto").replace("auto", "transformers"),
        "generation": GenerationDefaults(**given_generation, stop=(stop,) if isinstance(stop, str) else tuple(stop)),
        "resources": Resources(
            cpus=resources.get("cpus", 2.0), memory_bytes=size(resources.get("memory")), gpus=resources.get("gpus", 0)
        ),
    }
    same |= {f"{key}_s": value for key, value in times.items()}
    return ModelSpec(id=name, **same)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None)
@given(files(), st.booleans(), st.booleans())
def test_a_valid_file_survives_dump_and_load(tmp_path: Path, file: dict[str, Any], flow: bool, unicode: bool) -> None:
    """In each style of writing, a valid configuration loads to equal values, and the schema accepts it."""
    path = tmp_path / "models.yaml"
    text = yaml.safe_dump(file, default_flow_style=flow, allow_unicode=unicode, sort_keys=False)
    path.write_text(text, encoding="utf-8", newline="")
    registry = load_registry(path, engines=ENGINES)
    expected = {name: expected_spec(name, part, file.get("defaults", {})) for name, part in file["models"].items()}
    # Which engines `auto` may mean is the subject of test_load.py.
    decided = {name: replace(spec, candidates=(), engine_reason="") for name, spec in registry.models.items()}
    assert {name: replace(spec, engine_reason="") for name, spec in expected.items()} == decided
    assert list(expected) == list(registry.models)
    assert [error.message for error in VALIDATOR.iter_errors(file)] == []


def test_a_revision_beside_the_source_is_part_of_it(tmp_path: Path) -> None:
    """`revision` and `@revision` mean the same."""
    path = tmp_path / "models.yaml"
    path.write_text("models:\n  a: {source: hf://o/n@v1}\n  b: {source: hf://o/n, revision: v1}\n")
    registry = load_registry(path, engines=ENGINES)
    assert HubSource("o/n", "v1") == registry.models["a"].source == registry.models["b"].source
