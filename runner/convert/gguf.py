"""Converts GGUF to safetensors, tokenizer and configuration, as transformers saves them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from runner.engine import EngineError


def convert_gguf(source: Path, target: Path, *, dtype: str, on_progress: Callable[[float], None]) -> None:
    """Write a folder that `from_pretrained` reads without the GGUF. `on_progress` gets the completed fraction.

    Raises EngineError if transformers does not know the architecture.
    """
    from runner.engines.transformers.lean_import import import_torch

    torch = import_torch()
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()

    origin: dict[str, Any] = {"gguf_file": source.name, "local_files_only": True, "trust_remote_code": False}
    on_progress(0.1)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source.parent, **origin)
        on_progress(0.3)
        model = AutoModelForCausalLM.from_pretrained(
            source.parent,
            dtype=getattr(torch, dtype),
            quantization_config=GgufConfig(dequantize=True),
            low_cpu_mem_usage=True,
            **origin,
        )
    except (ValueError, KeyError, NotImplementedError) as error:
        raise EngineError(f"transformers cannot convert {source.name}: {error}") from error
    on_progress(0.8)
    tokenizer.save_pretrained(target)
    # With it, a later load would look for the GGUF's quantisation.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(target)
