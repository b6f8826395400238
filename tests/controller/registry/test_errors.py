"""Reading a wrong models.yaml: every mistake on a line of its own, and no other exception than ConfigInvalid."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from controller.errors import ConfigInvalid
from controller.registry import load_registry
from tests.engines import engine_facts

CORPUS = Path(__file__).resolve().parent / "corpus"
ENGINES = engine_facts("transformers", "llamacpp", "openvino")
one_file = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def problems(path: Path) -> list[str]:
    with pytest.raises(ConfigInvalid) as error:
        load_registry(path, engines=ENGINES)
    return error.value.problems


@pytest.mark.parametrize("case", sorted(path.stem for path in CORPUS.glob("*.yaml")))
def test_a_wrong_file_gets_exactly_these_lines(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`<case>.yaml` is refused with the lines of `<case>.expected`: drop in two files to add a case."""
    monkeypatch.chdir(CORPUS)
    expected = (CORPUS / f"{case}.expected").read_text(encoding="utf-8").splitlines()
    assert expected == problems(Path(f"{case}.yaml"))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """A missing file, a folder and a pipe get one clear line each, and reading the pipe does not block."""
    missing, folder, pipe = tmp_path / "missing.yaml", tmp_path / "folder", tmp_path / "pipe"
    folder.mkdir()
    os.mkfifo(pipe)
    assert [f"{missing}:1: file: does not exist; write it, see docs/models-yaml.md"] == problems(missing)
    assert [f"{folder}:1: file: is not a regular file; name a file of YAML text"] == problems(folder)
    assert [f"{pipe}:1: file: is not a regular file; name a file of YAML text"] == problems(pipe)


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    """A link to itself and an impossible file name are problems, not tracebacks."""
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    for path in (loop, Path("a\0b"), tmp_path / ("x" * 5000)):
        (line,) = problems(path)
        assert ":1: file: cannot be read (" in line


def test_a_file_without_the_right_to_read_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a file that the user may not read the error says how to allow it."""
    path = tmp_path / "models.yaml"
    path.write_text("models: {}\n")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError

    # root may read everything, so the test raises the error itself.
    monkeypatch.setattr(Path, "open", refuse)
    (line,) = problems(path)
    assert line.endswith("file: cannot be read; give your user the right to read it (chmod u+r)")


def test_a_file_over_the_limit_is_not_read(tmp_path: Path) -> None:
    """A file of more than 1 MiB is not read."""
    path = tmp_path / "models.yaml"
    path.write_bytes(b"#" * (1 << 20) + b"\n")
    assert [f"{path}:1: file: is larger than 1 MiB; write a shorter file"] == problems(path)


def test_a_byte_order_mark_and_windows_line_ends_are_fine(tmp_path: Path) -> None:
    """A file saved by a Windows editor loads."""
    path = tmp_path / "models.yaml"
    path.write_bytes(b"\xef\xbb\xbfmodels:\r\n  one:\r\n    source: hf://owner/name\r\n")
    assert list(load_registry(path, engines=ENGINES).models) == ["one"]


def test_the_automatic_engine_must_exist(tmp_path: Path) -> None:
    """`auto` is an error if the engine that it stands for does not exist."""
    path = tmp_path / "models.yaml"
    path.write_text("models:\n  one: {source: hf://owner/name}\n")
    with pytest.raises(ConfigInvalid) as error:
        load_registry(path, engines=engine_facts("llamacpp"))
    assert [f'{path}:2: models.one.engine: "auto" is no engine here; write one of llamacpp'] == error.value.problems


def check_text(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    lines = []
    try:
        load_registry(path, engines=ENGINES)
    except ConfigInvalid as error:
        lines = error.problems or ["an error without a reason"]
    assert all(line.startswith(f"{path}:") and line.isprintable() for line in lines)


MARKS = ["models:", "\n", "  ", "    ", "source: ", "hf://owner/name", "one", ":", "- ", "&a ", "*a", "<<: ", "{", "}"]
MARKS += [
    "[",
    "]",
    ",",
    '"',
    "'",
    "\\U",
    "FFFFFFFF",
    "!!",
    "!",
    "%YAML ",
    "%TAG ",
    "? ",
    "|",
    ">",
    "#",
    "\t",
    "---",
    "...",
]
MARKS += [
    "port: ",
    "8001",
    "env: ",
    "aliases: ",
    "resources: ",
    ".inf",
    "1e999",
    "null",
    "~",
    "\0",
    "\ufeff",
    "\x85",
    "@",
]


@one_file
@given(st.text())
@example("models: {a: {source: ")
@example('"\\ud800"')
def test_any_text_loads_or_is_an_error(tmp_path: Path, text: str) -> None:
    """No text raises anything but ConfigInvalid, whose lines are single printable lines."""
    check_text(tmp_path / "models.yaml", text.encode("utf-8", "surrogatepass"))


@one_file
@given(st.lists(st.sampled_from(MARKS), max_size=40).map("".join))
@example("%YAML 1." + "9" * 5000 + "\n---\n")
@example('models: {one: {source: hf://o/n, env: {A: "\\ud800"}, stop: 1}}')
@example("models: {one: {source: hf://o/n, port: " + "9" * 6000 + "}}")
@example("models: {one: {source: hf://o/n, env: {'[key]': 1}}}")
def test_anything_like_yaml_loads_or_is_an_error(tmp_path: Path, text: str) -> None:
    """Pieces of YAML in any order raise nothing but ConfigInvalid."""
    check_text(tmp_path / "models.yaml", text.encode())


@one_file
@given(st.binary())
def test_any_bytes_load_or_are_an_error(tmp_path: Path, content: bytes) -> None:
    """No bytes raise anything but ConfigInvalid."""
    check_text(tmp_path / "models.yaml", content)
