"""The house's import rules: each module may use what its row names, and nothing below it."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

from controller.settings import ROOT

# Module → what it may import, of ours and of others. docs/design.md shows the same table with the reasons.
RULES: dict[str, set[str]] = {
    "errors": set(),
    "files": {"errors"},
    "instance_lock": {"errors"},
    "readiness": set(),
    "clients": set(),
    "turnstile": set(),
    "arrival": set(),
    "connection": {"gunicorn", "arrival", "turnstile"},
    "pump": {"errors", "turnstile"},
    "metrics": {"prometheus_client"},
    "placement": set(),
    "budget": {"files", "placement"},
    "model_facts": set(),
    "source_ref": {"errors"},
    "engines": {"pydantic"},
    "settings": {"errors"},
    "registry": {"pydantic", "pydantic_core", "yaml", "errors", "source_ref", "files", "settings"},
    "rendering": {"jinja2", "pydantic", "registry", "engines", "errors"},
    "ports": {"errors", "files"},
    "sources": {"huggingface_hub", "httpx2", "requests", "urllib3", "errors", "source_ref", "files"},
    "docker_service": {"python_on_whales", "errors"},
    "preparation": {"filelock", "docker_service", "sources", "registry", "errors", "files", "model_facts"},
    "images": {"docker_service", "preparation", "registry", "engines", "errors"},
    "resumption": {"docker_service", "errors"},
    "leftovers": {"docker_service", "errors"},
    "compose_file": {"registry", "rendering", "ports", "preparation", "engines", "errors", "files", "budget"},
    "deployment": {"registry", "rendering", "ports", "docker_service", "preparation", "images", "resumption", "engines",
                   "errors", "files", "model_facts", "budget", "placement", "compose_file"},
    "http1": set(),
    "upstream": {"errors", "http1", "turnstile"},
    "proxy": {"errors", "http1", "readiness", "turnstile", "upstream"},
    "supervisor": {"registry", "docker_service", "preparation", "errors", "readiness", "model_facts", "turnstile",
                   "placement", "metrics"},
    "watch_file": set(),
    "reloading": {"registry", "errors"},
    "sent": {"errors"},
    "model_error": set(),
    "relay": {"supervisor", "proxy", "sent", "model_error", "errors"},
    "event_stream": {"relay", "errors"},
    "composition": {"settings", "registry", "rendering", "ports", "sources", "docker_service", "preparation",
                    "deployment", "images", "engines", "errors", "budget", "compose_file"},
    "api": {"flask", "werkzeug", "gunicorn", "pydantic", "supervisor", "registry", "relay", "model_error", "proxy",
            "clients", "connection", "pump", "event_stream", "docker_service", "preparation", "engines", "errors",
            "model_facts", "placement", "metrics", "reloading"},
    "app": {"flask", "api", "clients", "composition", "docker_service", "errors", "leftovers", "proxy",
            "pump", "registry", "relay", "reloading", "rendering", "settings", "supervisor", "upstream", "watch_file"},
    "signalled": {"gunicorn"},
    "worker": {"gunicorn", "api", "arrival", "connection", "errors", "signalled", "turnstile"},
    "provision": {"rich", "composition", "deployment", "docker_service", "errors", "preparation", "registry",
                  "rendering", "settings"},
    "gunicorn_conf": {"gunicorn", "composition", "connection", "errors", "instance_lock", "settings"},
}  # fmt: skip
# The only home of each of these libraries.
HOMES = {
    "python_on_whales": "docker_service",
    "flask": "api app",
    "jinja2": "rendering",
    "yaml": "registry",
    "prometheus_client": "metrics",
}


def imports_of(file: Path) -> set[str]:
    """Names of modules that a file imports anywhere: ours by the part after `controller.`, others by the first."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute"
            names = [
                f"{node.module}.{alias.name}" if node.module == "controller" else str(node.module)
                for alias in node.names
            ]
        for name in names:
            parts = name.split(".")
            found.add(parts[1] if parts[0] == "controller" and len(parts) > 1 else parts[0])
    return found


def modules() -> dict[str, list[Path]]:
    """Every top-level module of the controller with its files."""
    found: dict[str, list[Path]] = {}
    for file in sorted((ROOT / "controller").rglob("*.py")):
        name = file.relative_to(ROOT / "controller").parts[0].removesuffix(".py")
        if name != "__init__":
            found.setdefault(name, []).append(file)
    return found


def test_every_module_has_a_rule() -> None:
    """The table names exactly the modules that there are."""
    assert sorted(RULES) == sorted(modules())


@pytest.mark.parametrize("module", sorted(RULES))
def test_imports_follow_the_table(module: str) -> None:
    """A module imports the standard library, itself, and what its row names."""
    allowed = RULES[module] | {module, "__version__"} | set(sys.stdlib_module_names)
    for file in modules()[module]:
        assert imports_of(file) - allowed == set(), file.name


def test_rules_point_one_way() -> None:
    """No two modules may import each other, directly or by way of others."""
    done: set[str] = set()
    while len(done) < len(RULES):
        free = {name for name, uses in RULES.items() if name not in done and uses & set(RULES) <= done}
        assert free, f"a cycle among {sorted(set(RULES) - done)}"
        done |= free


@pytest.mark.parametrize("library", sorted(HOMES))
def test_each_library_has_one_home(library: str) -> None:
    """A library with a home is imported nowhere else."""
    users = {name for name, files in modules().items() if any(library in imports_of(file) for file in files)}
    assert users <= set(HOMES[library].split())


def test_the_runner_stands_alone() -> None:
    """The runner shares nothing with the controller but HTTP, and knows nothing of Docker."""
    for file in (ROOT / "runner").rglob("*.py"):
        assert imports_of(file) & {"controller", "python_on_whales", "docker"} == set(), file
