"""The import rules of docs/design/imports.md, held against the code: the page is the table, this file has none."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from controller.settings import ROOT

PAGE = ROOT / "docs" / "design" / "imports.md"
PACKAGES = ("controller", "runner")
STANDARD = set(sys.stdlib_module_names) | {"__future__"}

Rules = dict[str, set[str]]
each_package = pytest.mark.parametrize("package", PACKAGES)


def table(heading: str) -> list[list[str]]:
    """The rows below a heading of the page: the words between backticks of each cell."""
    section = PAGE.read_text(encoding="utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| `")]
    return [[" ".join(re.findall(r"`([^`]+)`", cell)) for cell in row] for row in rows]


def rules_of(package: str) -> Rules:
    """Entry of a package → what it may import: other entries, parts of them (`supervisor.backend`), libraries."""
    return {name: set(allowed.split()) for names, _, allowed in table(package) for name in names.split()}


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def entry_of(file: Path) -> str:
    """The folder, or the file, at the top of its package that a file belongs to."""
    return file.relative_to(ROOT).parts[1].removesuffix(".py")


def modules() -> dict[str, Path]:
    """Every module of both packages by its dotted name."""
    return {module_name(file): file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py"))}


def imported_by(file: Path, known: Mapping[str, object]) -> Iterator[str]:
    """Dotted names of what a file imports anywhere in it: ours as modules, of others the first part."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in known else str(node.module) for name in names]
        else:
            continue
        for name in names:
            top = name.split(".")[0]
            if top in PACKAGES or top not in STANDARD:
                yield name if top in PACKAGES else top


def uses_of(package: str) -> Rules:
    """Entry of a package → what its files import beyond themselves and the standard library."""
    known = modules()
    uses: Rules = {}
    for name, file in known.items():
        if name.split(".")[0] != package or name == package:
            continue
        mine = uses.setdefault(entry_of(file), set())
        for target in imported_by(file, known):
            inside = target.removeprefix(f"{package}.")
            if target != package and inside.split(".")[0] != entry_of(file):
                mine.add(inside)
    return uses


def is_covered(used: str, allowance: str) -> bool:
    return used == allowance or used.startswith(f"{allowance}.")


def circle_in(graph: Mapping[str, set[str]]) -> list[str]:
    """The nodes that remain when those without an open dependency are taken away, again and again."""
    left = {name: {used for used in uses if used in graph and used != name} for name, uses in graph.items()}
    while free := [name for name, uses in left.items() if not uses & left.keys()]:
        for name in free:
            del left[name]
    return sorted(left)


@each_package
def test_every_entry_has_a_row(package: str) -> None:
    """The table names exactly the files and folders at the top of the package that hold code."""
    assert sorted(uses_of(package)) == sorted(rules_of(package))


@each_package
def test_imports_follow_the_table(package: str) -> None:
    """Each folder imports the standard library, itself, and what its row names."""
    rules = rules_of(package)
    beyond = {
        entry: {used for used in uses if not any(is_covered(used, allowance) for allowance in rules[entry])}
        for entry, uses in uses_of(package).items()
    }
    assert {} == {entry: uses for entry, uses in beyond.items() if uses}


@each_package
def test_every_allowance_is_used(package: str) -> None:
    """A row names nothing that its folder could do without."""
    uses = uses_of(package)
    idle = {
        entry: {allowance for allowance in allowed if not any(is_covered(used, allowance) for used in uses[entry])}
        for entry, allowed in rules_of(package).items()
    }
    assert {} == {entry: allowed for entry, allowed in idle.items() if allowed}


@each_package
def test_rows_point_up_the_table(package: str) -> None:
    """A folder uses only what stands above it, so no two folders import each other, even by way of others."""
    rules = rules_of(package)
    order = list(rules)
    down = {
        entry: [used for used in allowed if used.split(".")[0] in order[order.index(entry) :]]
        for entry, allowed in rules.items()
    }
    assert {} == {entry: used for entry, used in down.items() if used}


@each_package
def test_no_circle_within_a_folder(package: str) -> None:
    """No file imports itself by way of others; a package's own `__init__` is what it gathers."""
    known = modules()
    graph = {
        name: {used for used in imported_by(file, known) if not name.startswith(f"{used}.")}
        for name, file in known.items()
        if name.startswith(f"{package}.")
    }
    assert [] == circle_in(graph)


@pytest.mark.parametrize(
    ("library", "homes"), [(library, homes) for library, homes in table("Libraries with one home")]
)
def test_each_library_has_one_home(library: str, homes: str) -> None:
    """A library with a home is imported nowhere else."""
    known = modules()
    users = {name for name, file in known.items() if library in imported_by(file, known)}
    assert users
    assert [] == [user for user in sorted(users) if not any(is_covered(user, home) for home in homes.split())]


def test_the_controller_requires_what_it_imports() -> None:
    """`requirements.in` names the libraries that the controller imports itself, no more and no fewer."""
    known = modules()
    files = [file for name, file in known.items() if name.startswith("controller.")]
    imported = {used for file in files for used in imported_by(file, known)} - {"controller"}
    packages = packages_distributions()
    names = {package for used in imported if "." not in used for package in packages[used]}
    required = re.findall(r"^[a-z0-9-]+", (ROOT / "requirements.in").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(required) == sorted(name.lower().replace("_", "-") for name in names)


def test_what_is_not_so_is_noticed(tmp_path: Path) -> None:
    """The reading itself: a name from a package counts as the module that it is, and a circle is found."""
    file = tmp_path / "file.py"
    file.write_text("import os.path, yaml.nodes\nfrom controller.proxy import http1\nfrom controller import errors\n")
    known = {"controller.proxy.http1": file, "controller.errors": file}
    assert {"yaml", "controller.proxy.http1", "controller.errors"} == set(imported_by(file, known))
    assert ["a", "b"] == circle_in({"a": {"b"}, "b": {"a"}, "c": {"a"}} | {"c": set()})
