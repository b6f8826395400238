"""The environment → one frozen `RunnerSettings`, read once."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from runner.engine import EngineError, PartialSampling

DTYPES = ("auto", "bfloat16", "float16", "float32")
# The meaning of "auto" on a CPU. Measured with SmolLM2-135M on two cores with bfloat16 instructions: float32 takes
# 31 ms a token and 1.0 s for a prompt of 800 tokens; bfloat16 takes 35 ms and 1.6 s, but half the memory.
AUTO_CPU_DTYPE = "float32"
TASKS = ("chat", "completion", "embedding")


@dataclass(frozen=True, kw_only=True)
class RunnerSettings:
    """The controller's settings for this container, from its environment."""

    model_id: str
    model_path: Path
    engine: str = "transformers"
    cpus: int = 1
    dtype: str = "auto"
    context_length: int | None = None
    chat_template: Path | None = None
    """A file with a chat template instead of the model's own."""
    task: str = "chat"
    generation: PartialSampling = field(default_factory=PartialSampling)
    max_concurrency: int = 8


def read_settings(environ: Mapping[str, str] | None = None) -> RunnerSettings:
    """Return the settings in the environment. Raises EngineError that names the variable at fault."""
    env = os.environ if environ is None else environ
    context = _number(env, "ORCHESTRAR_CONTEXT_LENGTH", 0)
    return RunnerSettings(
        model_id=env.get("ORCHESTRAR_MODEL_ID") or "model",
        model_path=Path(env.get("ORCHESTRAR_MODEL_PATH") or "/model"),
        engine=env.get("ORCHESTRAR_ENGINE") or "transformers",
        # A container may have half a core; a thread pool may not.
        cpus=max(1, math.ceil(_number(env, "ORCHESTRAR_CPUS", os.cpu_count() or 1))),
        dtype=_choice(env, "ORCHESTRAR_DTYPE", DTYPES),
        context_length=int(context) or None,
        chat_template=Path(template) if (template := env.get("ORCHESTRAR_CHAT_TEMPLATE")) else None,
        task=_choice(env, "ORCHESTRAR_TASK", TASKS),
        generation=_generation(env.get("ORCHESTRAR_GENERATION") or "{}"),
        max_concurrency=max(1, int(_number(env, "ORCHESTRAR_MAX_CONCURRENCY", 8))),
    )


def _number(env: Mapping[str, str], name: str, default: float) -> float:
    text = env.get(name) or str(default)
    try:
        value = float(text)
    except ValueError:
        raise EngineError(f"{name} is {text!r}; write a number") from None
    if not 0 <= value < 1e9:
        raise EngineError(f"{name} is {text!r}; write a number from 0 up")
    return value


def _choice(env: Mapping[str, str], name: str, choices: tuple[str, ...]) -> str:
    value = env.get(name) or choices[0]
    if value not in choices:
        raise EngineError(f"{name} is {value!r}; write one of: {', '.join(choices)}")
    return value


def _generation(text: str) -> PartialSampling:
    try:
        raw: Any = json.loads(text)
    except ValueError as error:
        raise EngineError(f"ORCHESTRAR_GENERATION is not valid JSON: {error}") from None
    if not isinstance(raw, dict):
        raise EngineError("ORCHESTRAR_GENERATION must be a JSON object of default parameters")
    names = {item.name for item in fields(PartialSampling)}
    if unknown := sorted(set(raw) - names):
        raise EngineError(f"ORCHESTRAR_GENERATION has unknown keys: {', '.join(unknown)}; remove them")
    stop = raw.get("stop")
    if stop is not None:
        raw["stop"] = (stop,) if isinstance(stop, str) else tuple(stop)
    return PartialSampling(**raw)
