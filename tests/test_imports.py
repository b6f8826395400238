"""Compares the imports of the code with the tables in docs/design/imports.md."""

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
    """Return the rows of the table below a heading of the page: of each cell the words between backticks."""
    section = PAGE.read_text(encoding="utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| `")]
    return [[" ".join(re.findall(r"`([^`]+)`", cell)) for cell in row] for row in rows]


def rules_of(package: str) -> Rules:
    """Return what each entry of a package may import: other entries, parts of them, libraries."""
    return {name: set(imports.split()) for names, _, imports in table(package) for name in names.split()}


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def entry_of(file: Path) -> str:
    """Return the folder or file at the top of its package that a file belongs to."""
    return file.relative_to(ROOT).parts[1].removesuffix(".py")


def modules() -> dict[str, Path]:
    """Return every module of both packages by its dotted name."""
    return {module_name(file): file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py"))}


def imports_of(file: Path, all_modules: Mapping[str, object]) -> Iterator[str]:
    """Yield what a file imports anywhere in it: dotted names of our modules, and the first part of other names."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in all_modules else str(node.module) for name in names]
        else:
            continue
        for name in names:
            top = name.split(".")[0]
            if top in PACKAGES or top not in STANDARD:
                yield name if top in PACKAGES else top


def uses_of(package: str) -> Rules:
    """Return what the files of each entry of a package import, except themselves and the standard library."""
    all_modules = modules()
    uses: Rules = {}
    for name, file in all_modules.items():
        if name.split(".")[0] != package or name == package:
            continue
        mine = uses.setdefault(entry_of(file), set())
        for target in imports_of(file, all_modules):
            inside = target.removeprefix(f"{package}.")
            if target != package and inside.split(".")[0] != entry_of(file):
                mine.add(inside)
    return uses


def is_covered(use: str, allowance: str) -> bool:
    return use == allowance or use.startswith(f"{allowance}.")


def circle_in(graph: Mapping[str, set[str]]) -> list[str]:
    """Return the nodes that remain after repeatedly removing those without a dependency among the others."""
    left = {name: {use for use in uses if use in graph and use != name} for name, uses in graph.items()}
    while free := [name for name, uses in left.items() if not uses & left.keys()]:
        for name in free:
            del left[name]
    return sorted(left)


@each_package
def test_every_entry_has_a_row(package: str) -> None:
    """The table has a row for each file and folder at the top of the package that has code, and no other row."""
    assert sorted(uses_of(package)) == sorted(rules_of(package))


@each_package
def test_imports_follow_the_table(package: str) -> None:
    """Each folder imports only the standard library, itself, and what its row names."""
    rules = rules_of(package)
    beyond = {
        entry: {use for use in uses if not any(is_covered(use, allowance) for allowance in rules[entry])}
        for entry, uses in uses_of(package).items()
    }
    assert {} == {entry: uses for entry, uses in beyond.items() if uses}


@each_package
def test_every_allowance_is_used(package: str) -> None:
    """A row names nothing that its folder does not import."""
    uses = uses_of(package)
    idle = {
        entry: {allowance for allowance in allowances if not any(is_covered(use, allowance) for use in uses[entry])}
        for entry, allowances in rules_of(package).items()
    }
    assert {} == {entry: allowances for entry, allowances in idle.items() if allowances}


@each_package
def test_rows_point_up_the_table(package: str) -> None:
    """A folder imports only folders above its row, so that no two folders import each other, even indirectly."""
    rules = rules_of(package)
    order = list(rules)
    down = {
        entry: [allowance for allowance in allowances if allowance.split(".")[0] in order[order.index(entry) :]]
        for entry, allowances in rules.items()
    }
    assert {} == {entry: allowances for entry, allowances in down.items() if allowances}


@each_package
def test_no_circle_within_a_folder(package: str) -> None:
    """No file imports itself through others; a package's `__init__` may import the files of the package."""
    all_modules = modules()
    graph = {
        name: {use for use in imports_of(file, all_modules) if not name.startswith(f"{use}.")}
        for name, file in all_modules.items()
        if name.startswith(f"{package}.")
    }
    assert [] == circle_in(graph)


@pytest.mark.parametrize(
    ("library", "homes"), [(library, homes) for library, homes in table("Libraries with one home")]
)
def test_each_library_has_one_home(library: str, homes: str) -> None:
    """A library with a home is imported nowhere else."""
    all_modules = modules()
    users = {name for name, file in all_modules.items() if library in imports_of(file, all_modules)}
    assert users
    assert [] == [user for user in sorted(users) if not any(is_covered(user, home) for home in homes.split())]


def test_the_controller_requires_what_it_imports() -> None:
    """`requirements.in` names exactly the libraries that the controller itself imports."""
    all_modules = modules()
    files = [file for name, file in all_modules.items() if name.startswith("controller.")]
    libraries = {use for file in files for use in imports_of(file, all_modules) if use.split(".")[0] not in PACKAGES}
    packages = packages_distributions()
    names = {package.lower().replace("_", "-") for library in libraries for package in packages[library]}
    required = re.findall(r"^[a-z0-9-]+", (ROOT / "requirements.in").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(required) == sorted(names)


def test_the_checks_notice_violations(tmp_path: Path) -> None:
    """The check itself: a name from a package counts as the module that it is, and a circle is found."""
    file = tmp_path / "file.py"
    file.write_text("import os.path, yaml.nodes\nfrom controller.proxy import http1\nfrom controller import errors\n")
    all_modules = {"controller.proxy.http1": file, "controller.errors": file}
    assert {"yaml", "controller.proxy.http1", "controller.errors"} == set(imports_of(file, all_modules))
    assert ["a", "b"] == circle_in({"a": {"b"}, "b": {"a"}, "c": {"a"}} | {"c": set()})
