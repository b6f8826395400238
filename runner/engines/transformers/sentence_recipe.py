"""Reads how a model turns its token states into one vector, from its files for the sentence-transformers library.

`modules.json` lists the steps, each with its own folder. Reading needs no library.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.engine import EngineError

# Older configurations have a switch for each pooling → its name in today's; in the order of concatenation.
SWITCHES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
ACTIVATIONS = frozenset({"GELU", "Identity", "ReLU", "SiLU", "Sigmoid", "Tanh"})


@dataclass(frozen=True, kw_only=True)
class Dense:
    """A linear layer after pooling; its weights lie in `folder`."""

    folder: str
    activation: str


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a text becomes a vector. Without a configuration: the mean of its tokens, of length 1 like OpenAI's."""

    modes: tuple[str, ...] = ("mean",)
    dense: tuple[Dense, ...] = ()
    normalize: bool = True
    max_tokens: int | None = None
    lower_case: bool = False
    prompt: str = ""


def read_recipe(folder: Path) -> Recipe:
    """Return the recipe in a model's folder. Raises EngineError for an unknown step."""
    modules = _json(folder / "modules.json")
    if modules is None:
        return Recipe()
    steps = [(str(module["type"]).rpartition(".")[2], _subfolder(module)) for module in modules]
    _check_order([kind for kind, _ in steps])
    configs = {path: _json(folder / path / "config.json") or {} for _, path in steps if path}
    pooling = next(configs[path] for kind, path in steps if kind == "Pooling")
    prompt = _prompt(_json(folder / "config_sentence_transformers.json") or {})
    if prompt and not pooling.get("include_prompt", True):
        raise EngineError(
            "the model excludes its prompt from pooling, which this engine cannot do; choose another model"
        )
    # Older configurations have the architecture in the file's name.
    own = next((_json(path) for path in sorted(folder.glob("sentence_*_config.json"))), None) or {}
    return Recipe(
        modes=_modes(pooling),
        dense=tuple(_dense(path, configs[path]) for kind, path in steps if kind == "Dense"),
        normalize=steps[-1][0] == "Normalize",
        max_tokens=own.get("max_seq_length"),
        lower_case=bool(own.get("do_lower_case")),
        prompt=prompt,
    )


def _check_order(kinds: list[str]) -> None:
    # Dropout has an effect only in training.
    steps = " ".join(kind for kind in kinds if kind != "Dropout")
    if not re.fullmatch("Transformer Pooling( Dense)*( Normalize)?", steps):
        raise EngineError(
            f"modules.json lists the steps {steps}, but this engine supports only Transformer, Pooling, Dense and "
            "Normalize, in this order; choose another model"
        )


def _modes(config: dict[str, Any]) -> tuple[str, ...]:
    names = config.get("pooling_mode") or [mode for switch, mode in SWITCHES.items() if config.get(switch)]
    modes = (names,) if isinstance(names, str) else tuple(names) or ("mean",)
    if unknown := set(modes) - set(SWITCHES.values()):
        raise EngineError(f"this engine does not support the pooling {unknown.pop()!r}; choose another model")
    return modes


def _dense(path: str, config: dict[str, Any]) -> Dense:
    activation = str(config.get("activation_function", "Tanh")).rpartition(".")[2]
    if activation not in ACTIVATIONS or config.get("use_residual"):
        raise EngineError(f"{path} has a kind of layer that this engine does not support; choose another model")
    return Dense(folder=path, activation=activation)


def _prompt(config: dict[str, Any]) -> str:
    """Return the prompt before every text, if the model has a default one."""
    return str((config.get("prompts") or {}).get(config.get("default_prompt_name")) or "")


def _subfolder(module: dict[str, Any]) -> str:
    path = str(module.get("path", ""))
    # The model's author chooses the names.
    if path and Path(path).name != path:
        raise EngineError(
            f"modules.json names the folder {path!r}, which is not one of the model's; choose another model"
        )
    return path


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise EngineError(f"{path.name} is not valid JSON: {error}; download the model again") from None
