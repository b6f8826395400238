"""Loads a model's folder with transformers: downloads nothing, and runs none of the model's own code."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from runner.engine import EngineError, Phase
from runner.engines.transformers.model_kind import check_kind, check_weights
from runner.settings import AUTO_CPU_DTYPE, RunnerSettings

log = logging.getLogger("runner")

LOCAL = {"local_files_only": True, "trust_remote_code": False}
AUTO_GPU_DTYPE = "bfloat16"


class Pretrained(NamedTuple):
    """What a model's folder holds: its configuration, tokenizer and weights."""

    config: Any
    tokenizer: Any
    model: Any


def load_pretrained(
    auto_class: Literal["AutoModel", "AutoModelForCausalLM"],
    settings: RunnerSettings,
    on_phase: Callable[[Phase], None],
) -> Pretrained:
    """Import the libraries, then load a model's folder. Raises EngineError for a kind of model that is not served."""
    on_phase("importing")
    from runner.engines.transformers.lean_import import import_torch

    torch = import_torch()
    import transformers
    from transformers.utils.logging import disable_progress_bar

    # The library imports a class when it is looked up, which belongs to this phase.
    make_tokenizer, make_model = transformers.AutoTokenizer, getattr(transformers, auto_class)
    make_config = transformers.AutoConfig
    disable_progress_bar()

    on_phase("loading")
    torch.set_num_threads(settings.cpus)
    check_kind(settings.model_path, auto_class)
    config = make_config.from_pretrained(settings.model_path, **LOCAL)
    tokenizer = make_tokenizer.from_pretrained(settings.model_path, **LOCAL)
    return Pretrained(config, tokenizer, _load_model(make_model, config, settings))


def bounded_context(settings: RunnerSettings, own: int, default: int) -> int:
    """Return the context length of the settings, or `default`, but no more than the model's `own`."""
    length = settings.context_length or default
    if length > own:
        log.warning("context_length %d exceeds the model's own %d; the engine uses %d", length, own, own)
    return min(own, length)


def _load_model(make_model: Any, config: Any, settings: RunnerSettings) -> Any:
    """Return the model on its device, ready to compute, in the number format of the settings."""
    import torch

    has_gpu = torch.cuda.is_available()
    name = settings.dtype
    dtype = (AUTO_GPU_DTYPE if has_gpu else AUTO_CPU_DTYPE) if name == "auto" else name
    placement = {"device_map": {"": "cuda"}} if has_gpu else {}
    try:
        model, loaded = make_model.from_pretrained(
            settings.model_path,
            config=config,
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            output_loading_info=True,
            **LOCAL,
            **placement,
        )
    except OSError as error:
        reason = str(error).partition("\n")[0]
        raise EngineError(f"the engine cannot load the model's files: {reason}") from error
    check_weights(model, loaded["missing_keys"], loaded["unexpected_keys"])
    return model.eval()
