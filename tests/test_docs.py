"""The documentation names everything that the code has, and nothing else."""

from __future__ import annotations

import ast
import inspect
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from controller import __version__, errors
from controller.app import create_app
from controller.errors import OrchestrarError
from controller.registry import Registry
from controller.settings import ROOT, Settings
from controller.supervisor import State
from controller.supervisor.states import TRANSITIONS, Event
from tests.fake_controller import make_controller
from tests.fakes import FakeBackend, make_spec

DOCS = ROOT / "docs"
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
# Written in parts, so that this file itself does not name them.
REGISTRY_HOSTS = [
    ".".join(parts)
    for parts in (
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("download", "pytorch", "org"),
        ("npmjs", "org"),
        ("crates", "io"),
        ("ghcr", "io"),
        ("quay", "io"),
        ("hub", "docker", "com"),
        ("index", "docker", "io"),
        ("proxy", "golang", "org"),
    )
]
# Never an answer with their own code: the first one ends the process, the second one passes on the model's own code.
NEVER_ANSWERED = {errors.InstanceRuns, errors.UpstreamAnswered}
# Shown in the rows of /models and /status, without an HTTP status.
WITHOUT_STATUS = {errors.DockerError, errors.DockerTimeout}

CODE = ("controller", "runner", "scripts", "templates", "tests")


def relative(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


each_page = pytest.mark.parametrize("page", PAGES, ids=relative)


def read(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def table_rows(text: str, first_cell: str) -> list[list[str]]:
    """Return the rows of a page's tables whose first cell matches, as lists of cells."""
    lines = (line for line in text.splitlines() if line.startswith("| "))
    rows = ([cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines)
    return [row for row in rows if re.fullmatch(first_cell, row[0])]


def words_in_backticks(cell: str) -> list[str]:
    """Return the words between backticks."""
    return re.findall(r"`([^`]+)`", cell)


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Flask]:
    """Yield the app with one model on a fake Docker."""
    settings = Settings(data_dir=tmp_path, compose_dir=tmp_path)
    app = create_app(make_controller(settings, registry=Registry(models={"tiny": make_spec()}), backend=FakeBackend()))
    yield app
    app.extensions["controller"].close()


@pytest.mark.parametrize(
    ("path", "beginning"),
    [
        ("/health", '{"status":"ok"'),
        ("/health", '{"status":"degraded"'),
        ("/models", '{"models":[{"id":"smollm2-135m","aliases"'),
        ("/status", '{"models":[{"id":"smollm2-135m","state"'),
    ],
)
def test_examples_have_the_fields_of_answers(app: Flask, path: str, beginning: str) -> None:
    """Each example in the README and in api.md has the fields of the real answer, in the same order."""
    answer = app.test_client().get(path).get_json()
    pages = (ROOT / "README.md").read_text(encoding="utf-8") + read("api.md")
    texts = [text.replace("\n", "") for text in re.findall(r"^\{.*(?:\n .*)*", pages, re.MULTILINE)]
    examples = [text.replace(", …]", "]") for text in texts if text.startswith(beginning)]
    assert examples
    for example in examples:
        assert fields_of(answer) == fields_of(json.loads(example))


def fields_of(answer: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Return the fields of an answer, and those of its first model."""
    return list(answer), list(*answer.get("models", [])[:1])


def test_every_route_has_its_section(app: Flask) -> None:
    """api.md has a heading for each route of the app, and for no other."""
    routes = {
        f"{method} {re.sub('<[^>]+>', '{id}', rule.rule)}"
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    assert routes == set(re.findall(r"^## `([A-Z]+ /\S*)`$", read("api.md"), re.MULTILINE))


def environment_variables() -> dict[str, str]:
    """Return variable → field of Settings, from the one call that reads them all."""
    tree = ast.parse(inspect.getsource(Settings.from_environ).lstrip().replace("\n    ", "\n"))
    fields = {}
    for call in ast.walk(tree):
        for keyword in call.keywords if isinstance(call, ast.Call) else []:
            for node in ast.walk(keyword.value):
                if isinstance(node, ast.Constant) and re.fullmatch(r"[A-Z][A-Z0-9_]+", str(node.value)):
                    fields[str(node.value)] = str(keyword.arg)
    return fields


def test_every_environment_variable_has_its_row() -> None:
    """operations.md lists each variable of the settings with its true default, and no other."""
    variables = environment_variables()
    assert len(variables) > 10
    documented = {
        words_in_backticks(row[0])[0]: row[1] for row in table_rows(read("operations.md"), r"`(ORCHESTRAR|HF)_\w+`")
    }
    assert documented == {name: default_text(getattr(Settings(), field)) for name, field in variables.items()}


def default_text(value: object) -> str:
    if isinstance(value, Path):
        return value.relative_to(ROOT).as_posix()
    if isinstance(value, bool):
        return str(int(value))
    return str(value) if value else "none"


def called_names() -> set[str]:
    """Return the names that modules of the controller call."""
    calls = (
        node
        for file in sorted((ROOT / "controller").rglob("*.py"))
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
    )
    return {node.func.id for node in calls if isinstance(node.func, ast.Name)}


def reachable_errors() -> list[type[OrchestrarError]]:
    """Return the classes of errors that a client can get, without bases that are never raised."""
    names = called_names()
    kinds = [kind for kind in vars(errors).values() if inspect.isclass(kind) and issubclass(kind, OrchestrarError)]
    return [kind for kind in kinds if kind.__name__ in names and kind not in NEVER_ANSWERED]


def test_every_error_code_is_explained() -> None:
    """api.md shows each code that a client can get with its status, and no other code."""
    api = read("api.md")
    rows = table_rows(api, r"[45]\d\d")
    with_status = {(kind.status, kind.code) for kind in reachable_errors() if kind not in WITHOUT_STATUS}
    assert {(int(row[0]), words_in_backticks(row[1])[0]) for row in rows} == with_status
    assert len(rows) == len(with_status)
    for kind in WITHOUT_STATUS:
        assert f"`{kind.code}`" in api


def headings(page: Path) -> set[str]:
    """Return the anchors of a page, in GitHub's form."""
    lines = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link of a page leads to a file that exists and, with `#`, to a heading in it."""
    prose = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        destination = (page.parent / path).resolve() if path else page
        assert destination.exists(), target
        assert not anchor or anchor in headings(destination), target


def test_every_decision_is_listed() -> None:
    """The index of the decisions links each record once, and every record has a question and a decision."""
    folder = DOCS / "design" / "decisions"
    records = {page.name: page.read_text(encoding="utf-8") for page in folder.glob("*.md") if page.name != "README.md"}
    assert records
    index = (folder / "README.md").read_text(encoding="utf-8")
    assert sorted(records) == sorted(re.findall(r"^- \[.+\]\((\S+)\)$", index, re.MULTILINE))
    for text in records.values():
        assert "\n**Question.** " in text
        assert "\n**Decision.** " in text


def test_picture_of_states_agrees_with_their_table() -> None:
    """Each arrow between states is a transition of the table, and each event that changes a state has an arrow."""
    picture = read("design/README.md").split("stateDiagram-v2\n")[1].split("```")[0]
    arrows = re.findall(r"^ *(\S+) --> (\w+)", picture, re.MULTILINE)
    edges = {(State(before), State(after)) for before, after in arrows if before != "[*]"}
    assert {state for arrow in edges for state in arrow} == set(State)
    assert edges <= {(before, after) for (before, _), states in TRANSITIONS.items() for after in states}
    for event in Event:
        pairs = {(before, after) for (before, of), to in TRANSITIONS.items() if of is event for after in to}
        changes = {(before, after) for before, after in pairs if before is not after}
        assert not changes or changes & edges, event


def messages() -> list[str]:
    """Return the texts in the code, with `…` for each value in them."""
    files = [file for folder in ("controller", "runner", "scripts") for file in (ROOT / folder).rglob("*.py")]
    nodes = (node for file in files for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
    texts = []
    for node in nodes:
        if isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else "…" for part in node.values]
            texts.append("".join(str(part) for part in parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            texts.append(node.value)
    return texts


@pytest.mark.parametrize(
    ("name", "heading"),
    [
        ("install.md", "message of the set-up"),
        ("operations.md", "the message says"),
        ("sources.md", "the error says"),
    ],
)
def test_messages_that_pages_explain_exist(name: str, heading: str) -> None:
    """Each message in a page's table of failures is in the code, part by part between its values."""
    table = read(name).split(f"\n| {heading} |")[1].split("\n\n")[0]
    texts = messages()
    cells = [row[0] for row in table_rows(table, r"(?!-).+")]
    assert len(cells) > 5
    for cell in cells:
        for part in re.split(r"…|, or |`[^`]*`", cell):
            words = part.strip(" :;,.?()")
            assert " " not in words or any(words in text for text in texts), (cell, words)


def paths_of_the_code() -> set[str]:
    """Return every file and folder of the code, modules without `.py`."""
    files = [file.relative_to(ROOT) for folder in CODE for file in (ROOT / folder).rglob("*") if file.is_file()]
    return {path.as_posix().removesuffix(".py") for file in files for path in (file, *file.parents)}


@pytest.mark.parametrize("page", [*sorted((DOCS / "design").rglob("*.md")), ROOT / "CONTRIBUTING.md"], ids=relative)
def test_code_that_pages_name_exists(page: Path) -> None:
    """Each path in backticks, such as `proxy/http1`, is the end of the path of a file or folder."""
    paths = {f"/{path}" for path in paths_of_the_code()}
    for name in words_in_backticks(re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)):
        if re.fullmatch(r"[a-z_0-9]+(/[a-z_0-9]+)+(/|\.py)?", name) and not name.startswith("data/"):
            path = name.removesuffix("/").removesuffix(".py")
            assert any(candidate.endswith(f"/{path}") for candidate in paths), name


@each_page
def test_no_registry_is_named(page: Path) -> None:
    """No page names a package registry's host, because readers may use mirrors or have no network."""
    text = page.read_text(encoding="utf-8")
    assert [host for host in REGISTRY_HOSTS if host in text] == []


def commands(page: Path) -> list[str]:
    """Return the lines of a page's shell blocks, including blocks without a language."""
    lines, language = [], None
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.startswith("```"):
            language = line.removeprefix("```").strip() if language is None else None
        elif language in ("", "bash", "sh", "console"):
            lines.append(line.removeprefix("$ ").split(" #")[0].strip())
    return lines


@each_page
def test_make_targets_exist(page: Path) -> None:
    """Every `make` command of a page uses targets of the Makefile."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z][a-z-]*):", makefile, re.MULTILINE))
    for line in commands(page):
        match = re.fullmatch(r"(?:\w+=\S+ )*make((?: \S+)*)", line)
        words = match.group(1).split() if match else []
        assert {word for word in words if not re.match(r"-|\w+=", word)} <= targets, line


def test_version_has_one_source() -> None:
    """pyproject.toml reads the version from the code, and the changelog's newest release has the same one."""
    assert "version" not in PYPROJECT["project"]
    assert PYPROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "controller.__version__"}
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert __version__ == re.findall(r"^## \[(\d\S*)\] - \d{4}-\d\d-\d\d$", changelog, re.MULTILINE)[0]


def test_python_floor_is_the_same_everywhere() -> None:
    """Every place that names the oldest supported Python agrees with pyproject.toml."""
    floor = PYPROJECT["project"]["requires-python"].removeprefix(">=")
    assert floor == PYPROJECT["tool"]["mypy"]["python_version"]
    assert f"py{floor.replace('.', '')}" == PYPROJECT["tool"]["ruff"]["target-version"]
    for name in ("README.md", "docs/install.md", "scripts/setup/__init__.py"):
        assert {floor} == set(re.findall(r"Python (3\.\d+) or newer", (ROOT / name).read_text(encoding="utf-8"))), name
    for name in ("requirements.txt", "requirements-dev.txt", "CONTRIBUTING.md"):
        assert {floor} == set(re.findall(r"--python-version (\S+)", (ROOT / name).read_text(encoding="utf-8"))), name
