"""Models → text of the Compose file: pure, and the same bytes for the same input."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jinja2

from controller.deployment.engine_templates import read_engines
from controller.deployment.engines import Engine
from controller.deployment.rendering.memory_limits import (
    THIRD_PARTY_CONTEXT,
    memory_limit_bytes,
    preparing_memory_bytes,
)
from controller.deployment.rendering.target import ModelFiles, Target
from controller.errors import ConfigInvalid
from controller.registry import ModelSpec
from controller.registry.spec import ChatTemplateFile

MODEL_MOUNT = "/model"
SOURCE_MOUNT = "/source"
PREPARED_MOUNT = "/prepared"
CHAT_TEMPLATE_MOUNT = "/chat-template"
# What hardened.yaml.j2 writes for every container, with an engine's own value if it has one.
_HARDENED_LINES = frozenset({"user", "read_only", "cap_drop", "security_opt", "pids_limit", "init", "tmpfs"})


def render(targets: Iterable[Target], *, project: str, stop_grace_s: int, templates_dir: Path, max_cpus: float) -> str:
    """Return the Compose file for these models, in this order; none gets more than `max_cpus`: Docker would refuse it.

    Raises ConfigInvalid if a template is broken, writes a value without the JSON filter, or lacks a fact.
    """
    engines = read_engines(templates_dir)
    models = [_values(target, engines[target.spec.engine], max_cpus) for target in targets]
    volumes = [model["volume"] for model in models if model["volume"] is not None]
    try:
        template = _environment(templates_dir).get_template("compose.yaml.j2")
        return template.render(project=project, stop_grace=f"{stop_grace_s}s", models=models, volumes=volumes)
    except jinja2.TemplateSyntaxError as exc:
        raise ConfigInvalid([f"{exc.filename or templates_dir}:{exc.lineno}: {exc.message}"]) from exc
    except jinja2.TemplateError as exc:
        raise ConfigInvalid([f"{templates_dir}: the templates cannot be rendered: {exc}"]) from exc


def prepare_service(model_id: str) -> str:
    """Return the name of the service that prepares this model; no id contains `..`, so no model has this name."""
    return f"{model_id}..prepare"


class _Json(str):
    """Text that has passed the JSON filter; the only kind of value that templates may write."""


def _json(value: Any) -> _Json:
    """Return JSON that YAML reads as the same value, safe from Compose's own `$` expansion.

    JSON escapes characters beyond the BMP as surrogate pairs, which YAML reads as two characters, and leaves some
    control characters raw, which YAML refuses. So everything except printable ASCII is escaped in YAML's form.
    """
    if isinstance(value, jinja2.Undefined):
        raise jinja2.UndefinedError(value._undefined_message)
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    return _Json(re.sub(r"[^\x20-\x7e]", _escape, text).replace("$", "$$"))


def _escape(match: re.Match[str]) -> str:
    code = ord(match.group())
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def _only_json(value: Any) -> Any:
    if not isinstance(value, _Json):
        raise jinja2.TemplateRuntimeError(f"{value!r} is written without the json filter; write {{{{ value | json }}}}")
    return value


@functools.lru_cache(maxsize=8)
def _environment(templates_dir: Path) -> jinja2.Environment:
    """Return a cached environment, so that a model's start compiles no templates; it notices a changed template."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(templates_dir),
        undefined=jinja2.StrictUndefined,
        finalize=_only_json,
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["json"] = _json
    return environment


def _values(target: Target, engine: Engine, max_cpus: float) -> dict[str, Any]:
    """Return what a template sees as `model`. Templates only loop and substitute, so every choice is made here."""
    spec, files = target.spec, target.files
    cpus = min(spec.resources.cpus, max_cpus)
    return {
        "id": spec.id,
        "service": spec.id,
        "prepare_service": prepare_service(spec.id),
        "template": f"engines/{spec.engine}.yaml.j2",
        "is_prepared": files.volume is not None,
        "engine": spec.engine,
        "image": spec.image or engine.image,
        "container_port": str(engine.port),
        "ready_path": engine.ready,
        "task": spec.task,
        "dtype": spec.dtype,
        "context_length": "" if spec.context_length is None else str(spec.context_length),
        "context_of_all": str((spec.context_length or THIRD_PARTY_CONTEXT) * spec.max_concurrency),
        "max_concurrency": str(spec.max_concurrency),
        "generation": json.dumps(spec.generation.set_values(), sort_keys=True),
        "env": sorted(spec.env.items()),
        "args": list(spec.args),
        "cpus": cpus,
        "cpus_text": f"{cpus:g}",
        "threads": str(max(int(cpus), 1)),
        "gpus": spec.resources.gpus,
        "memory_bytes": memory_limit_bytes(target, engine),
        "prepare_memory_bytes": preparing_memory_bytes(files),
        "port": target.port,
        "start_period": f"{int(spec.start_timeout_s)}s",
        "optional": _optional(spec),
        "model_path": _model_path(files),
        "serve_mounts": [*_serve_mounts(files), *_template_mounts(spec.chat_template)],
        "chat_template": "" if spec.chat_template is None else _inside(spec.chat_template),
        "chat_template_sha256": "" if spec.chat_template is None else spec.chat_template.sha256,
        "source_mounts": _binds(files, SOURCE_MOUNT, folder=f"{SOURCE_MOUNT}/model"),
        "prepare_mount": _volume(files, PREPARED_MOUNT, read_only=False),
        "volume": None if files.volume is None else {"name": files.volume, "model": spec.id},
        **_hardening_changes(engine),
    }


def _template_mounts(template: ChatTemplateFile | None) -> list[dict[str, Any]]:
    return [] if template is None else [_bind(template.path, _inside(template))]


def _inside(template: ChatTemplateFile) -> str:
    """Return where the user's own chat template is in the container."""
    return f"{CHAT_TEMPLATE_MOUNT}/{template.path.name}"


def _hardening_changes(engine: Engine) -> dict[str, Mapping[str, Any]]:
    values = {line: relaxation.to for line, relaxation in engine.relaxations.items()}
    return {
        "relaxed": {line: value for line, value in values.items() if line in _HARDENED_LINES},
        "relaxed_beyond": {line: value for line, value in values.items() if line not in _HARDENED_LINES},
    }


def _model_path(files: ModelFiles) -> str:
    """Return what the server loads: the converted files, one file, or the folder."""
    if files.volume:
        return f"{MODEL_MOUNT}/weights"
    return MODEL_MOUNT if files.file_to_load is None else f"{MODEL_MOUNT}/{files.file_to_load}"


def _optional(spec: ModelSpec) -> dict[str, Any]:
    if not spec.resources.gpus:
        return {}
    device = {"driver": "nvidia", "count": spec.resources.gpus, "capabilities": ["gpu"]}
    return {"deploy": {"resources": {"reservations": {"devices": [device]}}}}


def _serve_mounts(files: ModelFiles) -> list[dict[str, Any]]:
    if files.volume:
        return [_volume(files, MODEL_MOUNT, read_only=True)]
    return _binds(files, MODEL_MOUNT, folder=MODEL_MOUNT)


def _binds(files: ModelFiles, place: str, *, folder: str) -> list[dict[str, Any]]:
    """Return the mounts of the source: a whole folder at `folder`, single files below `place`."""
    if files.parts:
        return [_bind(files.source / part, f"{place}/{part}") for part in files.parts]
    return [_bind(files.source, folder if files.source_is_folder else f"{place}/{files.source.name}")]


def _bind(source: Path, inside: str) -> dict[str, Any]:
    bind = {"create_host_path": False}
    return {"type": "bind", "source": str(source), "target": inside, "read_only": True, "bind": bind}


def _volume(files: ModelFiles, target: str, *, read_only: bool) -> dict[str, Any]:
    return {"type": "volume", "source": files.volume, "target": target, "read_only": read_only}
