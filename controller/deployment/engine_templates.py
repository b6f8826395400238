"""Reads the facts that the templates state about their engines."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

import jinja2
from jinja2 import nodes
from pydantic import ValidationError

from controller.deployment.engines import Engine
from controller.errors import ConfigInvalid

SUFFIX = ".yaml.j2"
# What the template of a third-party server may write into its service. serving.yaml.j2 writes the rest; what has to
# differ there is among the facts, with its reason, so that `/status` shows it.
_OWN_KEYS = ("command", "entrypoint", "environment", "healthcheck", "stop_signal", "working_dir")
_JINJA = re.compile(r"\{[%#].*?[%#]\}", re.DOTALL)
_KEY = re.compile(r"^ {4}[\"']?([A-Za-z_]+)[\"']?[ ]*:", re.MULTILINE)


def engine_names(templates_dir: Path) -> frozenset[str]:
    """Return the names of all engines: one template each in `engines/`."""
    return frozenset(path.name.removesuffix(SUFFIX) for path in _templates(templates_dir))


def read_engines(templates_dir: Path) -> dict[str, Engine]:
    """Return each engine by its name. Raises ConfigInvalid with everything that is wrong in the templates."""
    engines, problems = {}, []
    for path in _templates(templates_dir):
        try:
            engines[path.name.removesuffix(SUFFIX)] = _engine(path, path.stat().st_mtime_ns)
        except ConfigInvalid as exc:
            problems += exc.problems
    if problems:
        raise ConfigInvalid(problems)
    return engines


def _templates(templates_dir: Path) -> list[Path]:
    return sorted((templates_dir / "engines").glob(f"*{SUFFIX}"))


@functools.lru_cache(maxsize=64)
def _engine(path: Path, _changed_ns: int) -> Engine:
    try:
        source = path.read_text(encoding="utf-8")
        engine = Engine.model_validate(_facts(source))
        if not engine.own:
            _check_keys(source)
            if engine.chat_template and "model.chat_template" not in source:
                raise ValueError("chat_template: pass `model.chat_template` to the server, or remove the fact")
        return engine
    except ValidationError as exc:
        problems = [_problem(dict(error)) for error in exc.errors(include_url=False, include_input=False)]
    except (jinja2.TemplateError, nodes.Impossible, ValueError) as exc:
        problems = [f"engine: {str(exc) or 'is not made of plain values alone'}"]
    raise ConfigInvalid([f"{path}: {problem}" for problem in problems])


def _facts(source: str) -> Any:
    """Return the value of the template's `{% set engine = … %}`, which is made of literals alone."""
    for node in jinja2.Environment(autoescape=False).parse(source).body:
        if isinstance(node, nodes.Assign) and isinstance(node.target, nodes.Name) and node.target.name == "engine":
            value = node.node
            return value.as_const() if isinstance(value, nodes.Expr) else None
    raise ValueError("is not set; begin the template with {% set engine = {…} %}, see docs/engines.md")


def _check_keys(source: str) -> None:
    for key in _KEY.findall(_JINJA.sub("", source)):
        if key not in _OWN_KEYS:
            raise ValueError(f"the template writes `{key}`; name it in `relaxed`, with the reason (docs/engines.md)")


def _problem(error: dict[str, Any]) -> str:
    field = ".".join(["engine", *map(str, error["loc"])])
    return f"{field}: {str(error['msg']).removeprefix('Value error, ')}"
