"""The engines whose images are built here, as their templates describe them."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SUFFIX = ".yaml.j2"
_FACTS = re.compile(r"\{%-?\s*set\s+engine\s*=(.*?)-?%\}", re.DOTALL)
_CONSTANTS = {"true": True, "false": False, "none": None}


@dataclass(frozen=True, kw_only=True)
class BuiltEngine:
    """An engine's image, built from what has its name: a target of runner/Dockerfile, or a folder in servers/."""

    image: str
    needs_compiler: bool
    is_own: bool
    """Whether our runner is in it; then `make up` builds it. Another server is built when a model first needs it."""


def built_engines(templates: Path) -> dict[str, BuiltEngine]:
    """Return the engines that say how they are built, by name.

    A template that cannot be read is left out here: the controller refuses it with a sentence when its turn comes.
    """
    engines = {}
    for path in sorted((templates / "engines").glob(f"*{SUFFIX}")):
        facts = read_facts(path.read_text(encoding="utf-8"))
        build, image = facts.get("build"), facts.get("image")
        if isinstance(build, Mapping) and isinstance(image, str):
            name = path.name.removesuffix(SUFFIX)
            is_own = bool(facts.get("own"))
            engines[name] = BuiltEngine(image=image, needs_compiler=bool(build.get("compiler")), is_own=is_own)
    return engines


def runner_engines(templates: Path) -> dict[str, BuiltEngine]:
    """Return those of our own runner."""
    return {name: engine for name, engine in built_engines(templates).items() if engine.is_own}


def read_facts(template: str) -> Mapping[str, Any]:
    """Return the value of a template's `{% set engine = {…} %}`, which is made of literals; empty if there is none.

    Jinja is not installed yet when the set-up begins, so its literals are read as Python's.
    """
    match = _FACTS.search(template)
    try:
        tree = ast.parse(match.group(1).strip() if match else "{}", mode="eval")
        value = ast.literal_eval(_PythonConstants().visit(tree))
    except (SyntaxError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


class _PythonConstants(ast.NodeTransformer):
    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.Constant(_CONSTANTS[node.id]) if node.id in _CONSTANTS else node
