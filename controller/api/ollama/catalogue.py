"""The models as `tags`, `show` and `ps` list them. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from controller.api.ollama.answers import rfc3339
from controller.api.ollama.file_names import file_format, quantization
from controller.registry import GenerationDefaults, ModelSpec
from controller.supervisor import ModelView, State
from controller.supervisor.backend import ModelFacts

Facts = Callable[[str], ModelFacts | None]

# What its clients take for "never"; the first as Go writes no time at all.
NEVER_MODIFIED = "0001-01-01T00:00:00Z"
FOREVER_S = 100 * 365 * 86_400.0
# Loaded, in Ollama's sense.
RUNNING = frozenset({State.READY, State.DRAINING})
_OPTION_NAMES = {"max_tokens": "num_predict"}


def tags_row(spec: ModelSpec, facts: ModelFacts | None) -> dict[str, Any]:
    """Return the row of a model of models.yaml, downloaded or not."""
    return {
        **_names(spec, facts),
        "modified_at": _modified_at(facts),
        "size": facts.size_bytes if facts else 0,
        "details": _details(spec, facts),
    }


def ps_row(view: ModelView, facts: ModelFacts | None, now: datetime) -> dict[str, Any]:
    """Return the row of a model that runs. Its size is the memory that it takes, until that is measured its files'."""
    size_bytes = view.usage.memory_bytes if view.usage else (facts.size_bytes if facts else 0)
    stays_s = view.idle_timeout_s if view.idle_stop_in_s is None else view.idle_stop_in_s
    expires_at = now + timedelta(seconds=FOREVER_S if stays_s is None else min(stays_s, FOREVER_S))
    context = facts.context_length if facts else view.spec.context_length
    return {
        **_names(view.spec, facts),
        "size": size_bytes,
        "size_vram": size_bytes if view.spec.resources.gpus else 0,
        "details": _details(view.spec, facts),
        "expires_at": rfc3339(expires_at),
        **({"context_length": context} if context else {}),
    }


def show_body(spec: ModelSpec, facts: ModelFacts | None) -> dict[str, Any]:
    """Return all that is known of one model. Its chat template is not: the runner alone reads the model's files."""
    return {
        "modelfile": f"# An entry of config/models.yaml.\nFROM {spec.source}\n",
        "parameters": _parameters(spec.generation),
        "template": "",
        "details": _details(spec, facts),
        "model_info": _model_info(spec, facts),
        "capabilities": _capabilities(spec, facts),
        "modified_at": _modified_at(facts),
    }


def digest(spec: ModelSpec, facts: ModelFacts | None) -> str:
    """Return the digest of the files' contents; before they are here, of their source, since clients need one."""
    if facts is not None:
        return facts.content_hash
    return hashlib.sha256(str(spec.source).encode()).hexdigest()


def _names(spec: ModelSpec, facts: ModelFacts | None) -> dict[str, Any]:
    name = f"{spec.id}:latest"
    return {"name": name, "model": name, "digest": digest(spec, facts)}


def _modified_at(facts: ModelFacts | None) -> str:
    if facts is None:
        return NEVER_MODIFIED
    return rfc3339(datetime.fromtimestamp(facts.modified_at_s, UTC))


def _details(spec: ModelSpec, facts: ModelFacts | None) -> dict[str, Any]:
    names = facts.files if facts else (str(spec.source),)
    architecture = facts.architecture if facts else ""
    return {
        "parent_model": "",
        "format": file_format(names),
        "family": architecture,
        "families": [architecture] if architecture else None,
        "parameter_size": _count(facts.parameters) if facts and facts.parameters else "",
        "quantization_level": quantization(names, facts.dtype if facts else ""),
    }


def _model_info(spec: ModelSpec, facts: ModelFacts | None) -> dict[str, Any]:
    architecture = (facts.architecture if facts else "") or "unknown"
    context = facts.context_length if facts else spec.context_length
    info = {
        "general.architecture": architecture,
        "general.parameter_count": facts.parameters if facts else None,
        f"{architecture}.context_length": context,
        "orchestrar.engine": spec.engine,
        "orchestrar.engine_reason": spec.engine_reason,
        "orchestrar.source_choice": spec.source_choice or None,
    }
    return {key: value for key, value in info.items() if value is not None}


def _capabilities(spec: ModelSpec, facts: ModelFacts | None) -> list[str]:
    if spec.task == "embedding":
        return ["embedding"]
    calls_tools = spec.task == "chat" and facts is not None and facts.has_tools
    return ["completion", "tools"] if calls_tools else ["completion"]


def _parameters(generation: GenerationDefaults) -> str:
    lines = []
    for name, value in generation.set_values().items():
        for item in value if isinstance(value, list) else [value]:
            lines.append(f"{_OPTION_NAMES.get(name, name):<30} {json.dumps(item)}")
    return "\n".join(lines)


def _count(number: int) -> str:
    """Return a number of parameters as Ollama writes it: 134.52M, 1.5B."""
    if number >= 1_000_000_000:
        return f"{number / 1e9:.1f}B"
    return f"{number / 1e6:.2f}M" if number >= 1_000_000 else f"{number / 1e3:.0f}K"
