"""Loads a model's folder with transformers: nothing is fetched, and no code of the model's is run."""

from __future__ import annotations

from typing import Any

from runner.engine import EngineError
from runner.settings import AUTO_CPU_DTYPE, RunnerSettings

LOCAL = {"local_files_only": True, "trust_remote_code": False}
AUTO_GPU_DTYPE = "bfloat16"


def load_config(settings: RunnerSettings) -> Any:
    """The model's configuration. Raises EngineError for a kind of model that is not served."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(settings.model_path, **LOCAL)
    if getattr(config, "is_encoder_decoder", False):
        raise EngineError(f"{config.model_type} is an encoder-decoder model, which this engine does not serve")
    return config


def load_model(auto_class: Any, config: Any, settings: RunnerSettings) -> Any:
    """The model on its device, ready to compute, in the number format of the settings. Raises EngineError."""
    import torch

    has_gpu = torch.cuda.is_available()
    name = settings.dtype
    dtype = (AUTO_GPU_DTYPE if has_gpu else AUTO_CPU_DTYPE) if name == "auto" else name
    placement = {"device_map": {"": "cuda"}} if has_gpu else {}
    try:
        model = auto_class.from_pretrained(
            settings.model_path,
            config=config,
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            **LOCAL,
            **placement,
        )
    except OSError as error:
        reason = str(error).partition("\n")[0]
        raise EngineError(f"the model's files cannot be loaded: {reason}") from error
    return model.eval()
