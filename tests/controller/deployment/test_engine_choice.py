"""`engine: auto` after the download: the files and the engines' own refusals decide, the same in every process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from controller.deployment.engine_choice import EngineChoices, Refusal
from controller.deployment.engines import Engine
from controller.deployment.preparation import Preparation
from controller.docker.service import DockerService
from controller.registry import ModelSpec, Resources
from controller.registry.file.auto_engine import auto_candidates
from controller.registry.source_ref import FileSource, parse_source
from controller.registry.spec import Task
from controller.sources import SourceStore, StoredSource
from tests.engines import ALL_ENGINES

LLAMACPP = ALL_ENGINES["llamacpp"]
NARROW_ROWS = "its rows of 576 values are no multiple of 256."


def folder_of(folder: Path, *names: str) -> Path:
    """Make a model's folder with these files."""
    folder.mkdir(mode=0o755)
    for name in names:
        (folder / name).write_bytes(name.encode())
        (folder / name).chmod(0o644)
    return folder


def auto_spec(path: Path, *, task: Task = "chat", gpus: int = 0) -> ModelSpec:
    """Return a model with `engine: auto` as models.yaml gives it."""
    candidates = auto_candidates(task=task, gpus=gpus, engines=ALL_ENGINES)
    return ModelSpec(
        id="tiny",
        source=FileSource(path),
        engine="transformers",
        candidates=candidates,
        task=task,
        resources=Resources(gpus=gpus),
    )


def choices_of(tmp_path: Path, engines: Mapping[str, Engine] = ALL_ENGINES) -> EngineChoices:
    facts_dir = tmp_path / "facts"
    facts_dir.mkdir(exist_ok=True)
    store = SourceStore(tmp_path / "sources")
    docker = cast(DockerService, None)
    preparation = Preparation(store=store, docker=docker, engines=engines, facts_dir=facts_dir)
    return EngineChoices(preparation=preparation, engines=engines, folder=facts_dir)


@pytest.mark.parametrize(
    ("names", "task", "gpus", "engine"),
    [
        (["model.gguf"], "chat", 0, "openvino"),
        (["Model.GGUF", "README.md"], "completion", 0, "openvino"),
        (["model.gguf"], "embedding", 0, "llamacpp"),
        (["model.gguf"], "chat", 1, "transformers"),
        (["openvino_model.xml", "openvino_model.bin"], "chat", 0, "openvino"),
        (["model.safetensors", "config.json"], "chat", 0, "transformers"),
        (["model.safetensors", "config.json"], "embedding", 0, "transformers"),
        (["model.safetensors"], "chat", 2, "transformers"),
    ],
)
def test_the_files_decide(tmp_path: Path, names: list[str], task: Task, gpus: int, engine: str) -> None:
    """Whatever the source is called, each form of files goes to the first engine that takes it."""
    spec = auto_spec(folder_of(tmp_path / "plain-name", *names), task=task, gpus=gpus)
    choice = choices_of(tmp_path).of(spec)
    places = ALL_ENGINES[engine].max_concurrency
    assert (engine, places, "") == (choice.spec.engine, choice.spec.max_concurrency, choice.problem)
    assert "first engine of `auto` that takes" in choice.spec.engine_reason


def test_before_the_download_the_name_decides(tmp_path: Path) -> None:
    """Without files the engine is the one that the registry took by the source's name."""
    spec = auto_spec(tmp_path / "not-here")
    assert spec == choices_of(tmp_path).of(spec).spec


def test_a_refusal_leads_to_the_next_engine(tmp_path: Path) -> None:
    """The reason has the first engine's own sentence, and another process chooses the same."""
    spec = auto_spec(folder_of(tmp_path / "m", "model.gguf"))
    choices_of(tmp_path).refuse(spec, "openvino", Refusal(reason=NARROW_ROWS, image_id="sha256:1"))
    choice = choices_of(tmp_path).of(spec)
    assert ("llamacpp", LLAMACPP.max_concurrency) == (choice.spec.engine, choice.spec.max_concurrency)
    assert f"openvino: {NARROW_ROWS.rstrip('.')}; llamacpp serves it" == choice.spec.engine_reason
    assert choice == choices_of(tmp_path).of(choice.spec)


def test_all_refusals_together_are_one_sentence(tmp_path: Path) -> None:
    """If no engine is left, each one's sentence is in the problem."""
    spec = auto_spec(folder_of(tmp_path / "m", "model.gguf"))
    choices = choices_of(tmp_path)
    for engine in ("openvino", "llamacpp", "transformers"):
        assert not choices.of(spec).problem
        choices.refuse(spec, engine, Refusal(reason=f"{engine} says no", image_id=""))
    problem = choices.of(spec).problem
    assert all(f"{name}: {name} says no" in problem for name in ("openvino", "llamacpp", "transformers"))


def test_other_files_or_another_entry_decide_again(tmp_path: Path) -> None:
    """A refusal holds for the content, and for what the entry asks of an engine."""
    folder = folder_of(tmp_path / "m", "model.gguf")
    spec, choices = auto_spec(folder), choices_of(tmp_path)
    choices.refuse(spec, "openvino", Refusal(reason=NARROW_ROWS, image_id=""))
    assert "openvino" == choices.of(replace(spec, dtype="float16")).spec.engine
    assert "llamacpp" == choices.of(replace(spec, idle_timeout_s=1.0)).spec.engine
    (folder / "model.gguf").write_bytes(b"another model")
    assert "openvino" == choices.of(spec).spec.engine


def test_another_version_decides_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an older Orchestrar could not serve, a newer one may."""
    spec, choices = auto_spec(folder_of(tmp_path / "m", "model.gguf")), choices_of(tmp_path)
    choices.refuse(spec, "openvino", Refusal(reason=NARROW_ROWS, image_id=""))
    monkeypatch.setattr("controller.deployment.engine_choice.__version__", "99")
    assert "openvino" == choices.of(spec).spec.engine


@pytest.mark.parametrize(
    ("image_id", "engine"), [("sha256:1", "llamacpp"), (None, "llamacpp"), ("sha256:2", "openvino")]
)
def test_a_rebuilt_image_is_asked_again(tmp_path: Path, image_id: str | None, engine: str) -> None:
    """A refusal is the image's: another one may serve the model; one that is not here changes nothing."""
    spec, choices = auto_spec(folder_of(tmp_path / "m", "model.gguf")), choices_of(tmp_path)
    choices.refuse(spec, "openvino", Refusal(reason=NARROW_ROWS, image_id="sha256:1"))
    choices.reconsider(spec, lambda _: image_id)
    assert engine == choices.of(spec).spec.engine


@pytest.mark.parametrize("text", ["", "{", "[]", '{"key": 1, "refusals": {"openvino": {"reason": 1}}}', "[" * 100_000])
def test_a_damaged_record_only_means_choosing_again(tmp_path: Path, text: str) -> None:
    """A file that cannot be read is no reason to fail."""
    spec, choices = auto_spec(folder_of(tmp_path / "m", "model.gguf")), choices_of(tmp_path)
    (tmp_path / "facts" / "tiny.refusals.json").write_text(text)
    assert "openvino" == choices.of(spec).spec.engine


def test_a_deletion_forgets_the_refusals(tmp_path: Path) -> None:
    """The files that are downloaded next are looked at again."""
    spec, choices = auto_spec(folder_of(tmp_path / "m", "model.gguf")), choices_of(tmp_path)
    choices.refuse(spec, "openvino", Refusal(reason=NARROW_ROWS, image_id=""))
    choices.forget("tiny")
    assert "openvino" == choices.of(spec).spec.engine


@pytest.mark.parametrize(
    ("names", "engine", "sentence"),
    [
        (["adapter_config.json", "adapter_model.safetensors"], "auto", "is a LoRA adapter"),
        (["adapter_config.json", "adapter_model.safetensors"], "transformers", "is a LoRA adapter"),
        (["tokenizer.json", "tokenizer.model", "config.json"], "auto", "holds no weights, only config.json"),
        (["sha256-1a2b"], "auto", "no engine of `auto` serves its files (sha256-1a2b)"),
        (["mmproj-F16.gguf", "config.json"], "auto", "no model: mmproj-F16.gguf is the part of a model that sees"),
        (["m.imatrix.gguf"], "llamacpp", "no model: m.imatrix.gguf is statistics for quantising"),
        (["LICENSE", ".gitattributes", "config.json"], "auto", "holds no weights"),
        (["tokenizer.model"], "vllm", "holds no weights"),
        (["model.onnx"], "auto", "no engine of `auto` serves its files (model.onnx): llamacpp takes *.gguf"),
        (["model.safetensors"], "openvino", "the openvino engine takes *.gguf or openvino_model.xml"),
        (["openvino_model.xml"], "transformers", "the transformers engine takes *.safetensors or *.gguf"),
        (
            ["m-00001-of-00003.gguf", "m-00003-of-00003.gguf"],
            "openvino",
            "part of the model is missing: put m-00002-of-0",
        ),
    ],
)
def test_what_the_names_show_is_refused(tmp_path: Path, names: list[str], engine: str, sentence: str) -> None:
    """What cannot be a model, or none for the named engine, is refused before a start; no other engine steps in."""
    spec = auto_spec(folder_of(tmp_path / "m", *names))
    if engine != "auto":
        spec = replace(spec, engine=engine, candidates=())
    choice = choices_of(tmp_path).of(spec)
    assert sentence in choice.problem
    assert spec.engine == choice.spec.engine


@pytest.mark.parametrize("engine", ["auto", "openvino", "llamacpp", "transformers"])
def test_several_models_are_told_by_the_lines_to_write(tmp_path: Path, engine: str) -> None:
    """Each is named with its first part, and files that are no model are not."""
    names = ["a.gguf", "Q8/b-00002-of-00002.gguf", "Q8/b-00001-of-00002.gguf", "mmproj-a.gguf"]
    folder = folder_of(tmp_path / "m")
    (folder / "Q8").mkdir(mode=0o755)
    for name in names:
        (folder / name).write_bytes(b"x")
        (folder / name).chmod(0o644)
    spec = auto_spec(folder)
    if engine != "auto":
        spec = replace(spec, engine=engine, candidates=())
    first, second = f"`source: file://{folder}/Q8/b-00001-of-00002.gguf`", f"`source: file://{folder}/a.gguf`"
    problem = choices_of(tmp_path).of(spec).problem
    assert f"the source holds several models; write one of these lines instead: {first}, {second}" == problem
    for line in (first, second):
        one = replace(spec, source=parse_source(line.strip("`").removeprefix("source: ")))
        assert "" == choices_of(tmp_path).of(one).problem


def test_vectors_of_openvinos_form_have_no_engine(tmp_path: Path) -> None:
    """The problem says of each engine why it is none, by what the entry asks for."""
    spec = auto_spec(folder_of(tmp_path / "m", "openvino_model.xml", "openvino_model.bin"), task="embedding")
    problem = choices_of(tmp_path).of(spec).problem
    assert "openvino does not serve `task: embedding`; transformers takes *.safetensors or *.gguf" in problem


def test_a_merged_model_beside_its_adapter_is_one(tmp_path: Path) -> None:
    """The adapter's files do no harm beside real weights."""
    names = ["adapter_config.json", "adapter_model.safetensors", "model.safetensors"]
    assert not choices_of(tmp_path).of(auto_spec(folder_of(tmp_path / "m", *names))).problem


def test_the_choice_of_a_file_is_in_the_models_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the download says of its choice is shown with the model, with or without `auto`."""
    spec = auto_spec(folder_of(tmp_path / "m", "model.gguf"))
    lookup = SourceStore.lookup

    def with_choice(store: SourceStore, *source: Any) -> StoredSource | None:
        stored = lookup(store, *source)
        return None if stored is None else replace(stored, choice="model.gguf is the only one")

    assert "" == choices_of(tmp_path).of(spec).spec.source_choice
    monkeypatch.setattr(SourceStore, "lookup", with_choice)
    for entry in (spec, replace(spec, engine="llamacpp", candidates=())):
        assert "model.gguf is the only one" == choices_of(tmp_path).of(entry).spec.source_choice
