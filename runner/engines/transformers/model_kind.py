"""Which kinds of models this engine serves: by their config.json, and by the tensors that the library made use of."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from runner.engine import EngineError

# Parts of a configuration that describe other senses than text end like this, such as `vision_config`.
_SENSES = ("vision", "visual", "audio", "speech", "image", "video", "vq")
# Models with images whose text alone transformers computes with the whole class: logits equal those of the full model.
_WHOLE_CLASS_SERVES_TEXT = frozenset({"gemma3", "gemma4"})
# Its text part cannot compute without an image.
_NEEDS_IMAGE = frozenset({"mllama"})


def check_kind(folder: Path, auto_class: str) -> None:
    """Raise EngineError, with the name of what is not served, unless the folder's config.json is of a kind that is.

    Imports transformers.
    """
    config = read_config(folder)
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        raise EngineError(
            "config.json names no `model_type`, so the model's architecture is not known; choose a source whose "
            "config.json does"
        )
    _check_known(model_type, config)
    _check_decoder(model_type, config)
    _check_senses(model_type, config, auto_class)
    if auto_class == "AutoModelForCausalLM" and _class_name(model_type) is None:
        raise EngineError(
            f"{model_type} generates no text in transformers; if it is an encoder, write `task: embedding`, otherwise "
            "choose a causal language model"
        )


def read_config(folder: Path) -> dict[str, Any]:
    """Return the folder's config.json. Raises EngineError for a folder that is no model's."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise EngineError(
            "the model's folder has no config.json; name a folder that has one beside its weights"
        ) from None
    except (ValueError, RecursionError) as error:
        raise EngineError(f"config.json cannot be read ({error}); download it again") from None
    if not isinstance(config, dict):
        raise EngineError("config.json is no JSON object; download it again")
    return config


def check_weights(model: Any, missing: Iterable[str], unexpected: Iterable[str]) -> None:
    """Raise EngineError if the model computes without a tensor of its files, or with one that they do not hold.

    transformers fills a missing tensor with random numbers and leaves out what its class has no place for; both are
    warnings there, and a wrong answer here.
    """
    absent = sorted(name for name in missing if not _is_pooler(name))
    if absent:
        raise EngineError(
            f"the files hold no {absent[0]}{_more(absent)}, which {model.config.model_type} computes with; they are no "
            "whole model of this kind: choose another source"
        )
    layers = {
        name for name, module in model.named_modules() if "weight" in dict(module.named_parameters(recurse=False))
    }
    prefix = f"{model.base_model_prefix}."
    unused = sorted(name for name in unexpected if {parent := name.rpartition(".")[0], prefix + parent} & layers)
    if unused:
        raise EngineError(
            f"transformers' class for {model.config.model_type} leaves out {unused[0]}{_more(unused)} of the files, so "
            "its answers would differ; config.json and the weights do not belong together, or the model needs its own "
            "code, which is never run: choose another source"
        )


def _check_known(model_type: str, config: Mapping[str, Any]) -> None:
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    if model_type in CONFIG_MAPPING_NAMES:
        return
    version = transformers.__version__
    if "auto_map" in config:
        raise EngineError(
            f"{model_type} needs code of its own (`auto_map` in config.json), which is never run, and transformers "
            f"{version} does not know it without; choose a model of a family that it knows, or a GGUF file of this "
            "one, which llama.cpp may know"
        )
    raise EngineError(
        f"transformers {version} does not know the model type {model_type}; choose a model of a family that it knows, "
        "or a GGUF file of this one, which llama.cpp may know"
    )


def _check_decoder(model_type: str, config: Mapping[str, Any]) -> None:
    """Refuse models of two halves: those that say so, or whose type is one unless its configuration says otherwise."""
    import transformers

    usual = getattr(transformers.CONFIG_MAPPING[model_type](), "is_encoder_decoder", False)
    if config.get("is_encoder_decoder", usual):
        raise EngineError(
            f"{model_type} is an encoder-decoder model, which this engine does not serve; choose a decoder, such as "
            "the families llama, qwen3 or gemma3"
        )


def _check_senses(model_type: str, config: Mapping[str, Any], auto_class: str) -> None:
    """Refuse models with images or sound unless transformers has a class for their text alone."""
    parts = sorted(key for key, value in config.items() if value and _is_sense(key))
    serves_text = auto_class == "AutoModelForCausalLM" and _serves_text(model_type)
    if not parts or serves_text:
        return
    text = config.get("text_config")
    kind = text.get("model_type") if isinstance(text, dict) else None
    instead = f"its text part is of the type {kind}: choose a model of that type" if kind else "choose a model of text"
    raise EngineError(
        f"{model_type} is a model for more than text ({', '.join(parts)}), which is not served; {instead}"
    )


def _is_sense(key: str) -> bool:
    return key.endswith(("_config", "_tower")) and any(sense in key for sense in _SENSES)


def _serves_text(model_type: str) -> bool:
    """Tell whether the class for causal language models computes this type's text exactly without its other parts."""
    import transformers

    if model_type in _NEEDS_IMAGE:
        return False
    if model_type in _WHOLE_CLASS_SERVES_TEXT:
        return True
    name = _class_name(model_type)
    if name is None:
        return False
    text_config = transformers.CONFIG_MAPPING[model_type].sub_configs.get("text_config")
    return text_config is not None and getattr(transformers, name).config_class is text_config


def _class_name(model_type: str) -> str | None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    names: Any = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(model_type)
    name: str | None = names[0] if isinstance(names, (tuple, list)) else names
    return name


def _is_pooler(name: str) -> bool:
    """Tell whether the tensor is of the head that encoders have for sentence pairs; our vectors never use it."""
    return "pooler" in name.split(".")


def _more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""
