"""Preparing: once per content, remembered, and never assumed of a volume that was created again."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from filelock import FileLock

from controller.deployment.preparation import Preparation
from controller.docker.container import Container
from controller.docker.service import DockerService
from controller.errors import Cancelled, ModelBusy, ModelUnfit, PreparationFailed
from controller.registry import ModelSpec
from controller.registry.source_ref import FileSource
from controller.registry.spec import ChatTemplateFile
from controller.sources import SourceStore
from controller.supervisor.backend import PreparationProgress
from tests.controller.deployment.preparing_docker import PreparingDocker
from tests.engines import ALL_ENGINES
from tests.fakes import HANG_S, FakeClock, make_container


@pytest.fixture
def docker() -> PreparingDocker:
    return PreparingDocker()


@pytest.fixture
def spec(tmp_path: Path) -> ModelSpec:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    file.chmod(0o644)
    tmp_path.chmod(0o755)
    return ModelSpec(id="tiny", source=FileSource(file), engine="transformers")


@pytest.fixture
def preparation(tmp_path: Path, docker: PreparingDocker) -> Preparation:
    store = SourceStore(tmp_path / "sources")
    return Preparation(
        store=store,
        docker=cast(DockerService, docker),
        engines=ALL_ENGINES,
        facts_dir=tmp_path / "facts",
        clock=FakeClock(),
    )


def convert(preparation: Preparation, spec: ModelSpec, **kwargs: Any) -> list[PreparationProgress]:
    reports: list[PreparationProgress] = []
    arguments: dict[str, Any] = {"on_progress": reports.append, "cancelled": lambda: False, **kwargs}
    preparation.convert(spec, service="tiny..prepare", **arguments)
    return reports


def test_it_happens_once(preparation: Preparation, docker: PreparingDocker, spec: ModelSpec) -> None:
    """The first preparation runs the service, reports its progress and keeps the facts; the second does nothing."""
    assert not preparation.is_complete(spec)
    (report,) = convert(preparation, spec)
    assert (report.phase, report.fraction) == ("converting", 0.25)
    assert preparation.is_complete(spec)
    facts = preparation.facts(spec, preparation.find_source(spec))
    assert facts is not None
    assert (facts.parameters, facts.kv_bytes_per_token, facts.context_length) == (5, 2, 64)
    convert(preparation, spec)
    assert docker.calls.count("up tiny..prepare") == 1


def test_a_volume_of_the_same_name_is_filled_again(
    preparation: Preparation, docker: PreparingDocker, spec: ModelSpec
) -> None:
    """A volume that a user removed and created again has the old name and another creation time."""
    convert(preparation, spec)
    docker.volume_birth += timedelta(hours=1)
    convert(preparation, spec)
    assert docker.calls.count("up tiny..prepare") == 2


def test_other_content_is_another_volume(preparation: Preparation, spec: ModelSpec) -> None:
    """Changed files, or another dtype, never meet an old conversion."""
    before = preparation.volume(spec, preparation.find_source(spec))
    assert before != preparation.volume(replace(spec, dtype="float32"), preparation.find_source(spec))
    assert isinstance(spec.source, FileSource)
    spec.source.path.write_bytes(b"GGUF, but longer")
    assert before != preparation.volume(spec, preparation.find_source(spec))


def fails(
    preparation: Preparation, docker: PreparingDocker, spec: ModelSpec, code: int, *lines: str
) -> PreparationFailed:
    """Let the container end with this exit code and log, and return the error."""
    docker.exit_code, docker.lines, docker.last_lines = code, list(lines), list(lines)
    with pytest.raises(PreparationFailed) as error_info:
        convert(preparation, spec)
    assert not preparation.is_complete(spec)
    assert docker.current is None
    return error_info.value


PROGRESS = '{"phase": "converting", "fraction": 0.91}'


def test_a_failure_shows_the_containers_own_sentence(
    preparation: Preparation, docker: PreparingDocker, spec: ModelSpec
) -> None:
    """The sentence of the JSON line is the reason, wherever it is in the log, and not what was written around it."""
    error = fails(preparation, docker, spec, 1, PROGRESS, '{"error": "the file is\\ncut", "unfit": false}', "Traceback")
    assert "preparing tiny failed: the file is cut" == error.message
    assert (1, False) == (error.details["exit_code"], isinstance(error, ModelUnfit))


def test_an_engine_that_refuses_says_so(preparation: Preparation, docker: PreparingDocker, spec: ModelSpec) -> None:
    """The refusal keeps the sentence for the next engine's reason, and its empty volume is removed."""
    error = fails(preparation, docker, spec, 1, PROGRESS, '{"error": "no such rope", "unfit": true}')
    assert isinstance(error, ModelUnfit)
    assert "no such rope" == error.reason
    assert f"remove volume {preparation.volume(spec, preparation.find_source(spec))}" == docker.calls[-1]


@pytest.mark.parametrize(
    ("code", "lines", "expected"),
    [
        (137, [PROGRESS], "was killed from outside"),
        (139, [PROGRESS], "its process crashed (SIGSEGV)"),
        (134, ["Fatal Python error"], "its process crashed (SIGABRT)"),
        (1, [PROGRESS], "ended with exit code 1, and it wrote no reason"),
        (1, [PROGRESS, "no such architecture", PROGRESS], "its last words were: no such architecture"),
        (3, ["", "{not JSON"], "its last words were: {not JSON"),
    ],
)
def test_a_container_that_dies_without_a_word_is_explained(
    preparation: Preparation, docker: PreparingDocker, spec: ModelSpec, code: int, lines: list[str], expected: str
) -> None:
    """How it ended is the reason. A line about progress never is."""
    message = fails(preparation, docker, spec, code, *lines).message
    assert expected in message
    assert "fraction" not in message


def test_running_out_of_memory_names_the_limit(
    preparation: Preparation, docker: PreparingDocker, spec: ModelSpec
) -> None:
    """The remedy is about the conversion's own limit, which `resources.memory` does not change."""
    docker.oom_killed = True
    error = fails(preparation, docker, spec, 137, PROGRESS)
    assert "it ran out of memory (its limit is 1024m)" in error.message
    assert "`mem_limit` and `memswap_limit` of the service `tiny..prepare`" in error.message
    assert "resources.memory" not in error.message


def test_an_end_without_a_report_is_no_success(
    preparation: Preparation, docker: PreparingDocker, spec: ModelSpec
) -> None:
    """Facts that are missing are not taken for zeros."""
    assert "without a report" in fails(preparation, docker, spec, 0, PROGRESS).message


def test_a_cancel_leaves_nothing_running(preparation: Preparation, docker: PreparingDocker, spec: ModelSpec) -> None:
    """A cancelled preparation removes its container."""
    with pytest.raises(Cancelled):
        convert(preparation, spec, cancelled=lambda: docker.current is not None)
    assert docker.current is None


def test_two_at_once_take_turns(preparation: Preparation, docker: PreparingDocker, spec: ModelSpec) -> None:
    """Two threads that prepare one model at the same time run its service once."""
    running, go_on = threading.Event(), threading.Event()

    def block() -> None:
        running.set()
        assert go_on.wait(HANG_S)

    docker.while_running = block
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(convert, preparation, spec)
        assert running.wait(HANG_S)
        second = pool.submit(convert, preparation, spec)
        go_on.set()
        first.result(HANG_S)
        second.result(HANG_S)
    assert docker.calls.count("up tiny..prepare") == 1


def test_a_deletion_waits_for_a_bounded_time(preparation: Preparation, spec: ModelSpec) -> None:
    """While another process prepares the model its files cannot be deleted, and the caller does not wait forever."""
    folder = preparation._facts_dir
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f"{spec.id}.lock"), pytest.raises(ModelBusy, match="another process"):
        preparation.delete(spec)


def test_a_silent_conversion_is_stopped(preparation: Preparation, docker: PreparingDocker, spec: ModelSpec) -> None:
    """A container that hangs does not run forever: after an hour of silence it is removed."""
    inspect = docker.inspect

    def hang(container_id: str) -> Container | None:
        container = inspect(container_id)
        docker.current = container
        return container

    docker.inspect = hang  # type: ignore[method-assign]
    with pytest.raises(PreparationFailed, match="wrote nothing for 3600 s"):
        convert(preparation, spec)
    assert docker.calls[-1] == "remove"


def test_only_what_the_engine_converts_needs_it(spec: ModelSpec, preparation: Preparation, tmp_path: Path) -> None:
    """Safetensors, and GGUF for an engine that reads it, get no volume and are complete once downloaded."""
    folder = tmp_path / "st"
    folder.mkdir(mode=0o755)
    (folder / "model.safetensors").write_bytes(b"x")
    plain = ModelSpec(id="plain", source=FileSource(folder), engine="transformers")
    assert preparation.volume(plain, preparation.find_source(plain)) is None
    assert preparation.is_complete(plain)
    assert preparation.volume(spec, preparation.find_source(spec)) is not None
    as_it_is = replace(spec, engine="llamacpp")
    assert preparation.volume(as_it_is, preparation.find_source(as_it_is)) is None
    assert preparation.is_complete(as_it_is)


def test_the_facts_are_described_as_far_as_they_are_known(preparation: Preparation, spec: ModelSpec) -> None:
    """Sizes and content after the download, the rest after the conversion; nothing if the files are not here."""
    facts = preparation.describe(spec)
    assert facts is not None
    assert (4, ("model.gguf",), None, False) == (facts.size_bytes, facts.files, facts.parameters, facts.has_tools)
    convert(preparation, spec)
    facts = preparation.describe(spec)
    assert facts is not None
    assert (5, 64, "llama", True) == (facts.parameters, facts.context_length, facts.architecture, facts.has_tools)
    template = ChatTemplateFile(path=Path("/t.jinja"), sha256="")
    facts = preparation.describe(replace(spec, context_length=32, chat_template=template))
    assert facts is not None
    assert (32, False) == (facts.context_length, facts.has_tools)
    assert isinstance(spec.source, FileSource)
    spec.source.path.unlink()
    assert preparation.describe(spec) is None


def test_an_orphaned_preparation_is_removed(preparation: Preparation, docker: PreparingDocker, tmp_path: Path) -> None:
    """A preparation continues while some process holds its model's lock, and is removed when none does."""
    docker.current = make_container("tiny", id="preparing")
    (tmp_path / "facts").mkdir()
    with FileLock(tmp_path / "facts" / "tiny.lock"):
        preparation.end_orphans()
        assert docker.calls == []
    preparation.end_orphans()
    assert docker.calls == ["remove"]
