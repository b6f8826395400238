"""Converts GGUF to safetensors, tokenizer and configuration, as transformers saves them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from runner.convert.gguf_file import GgufFile
from runner.convert.llama_shape import model_shape
from runner.convert.plain_forward import PlainModel
from runner.convert.self_check import require_equal, sample_tokens
from runner.engine import ModelUnfit
from runner.engines.transformers.plain_logits import plain_logits
from runner.tokenizer import write_tokenizer

# bfloat16 keeps 8 bits of each weight.
TOLERANCES = {"float32": 0.02, "float16": 0.02, "bfloat16": 0.1}


def convert_gguf(source: Path, target: Path, *, dtype: str, on_progress: Callable[[float], None]) -> None:
    """Write a folder that `from_pretrained` reads without the GGUF. `on_progress` gets the fraction done.

    transformers leaves out tensors and settings that it does not know, without an error. So its logits are compared
    with those of the file. Raises ModelUnfit if they differ, or if there is nothing to compare them with.
    """
    file = GgufFile(source)
    model_shape(source.name, file.header)
    on_progress(0.1)
    model = _load(source, dtype)
    on_progress(0.6)
    _check(model, file, dtype)
    on_progress(0.8)
    # With it, a later load would look for the GGUF's quantisation.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(target)
    # After the model's own files: these name all ends of a turn.
    write_tokenizer(file.header.metadata, target)


def _load(source: Path, dtype: str) -> Any:
    from runner.engines.transformers.lean_import import import_torch

    torch = import_torch()
    from transformers import AutoModelForCausalLM, GgufConfig
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    try:
        return AutoModelForCausalLM.from_pretrained(
            source.parent,
            gguf_file=source.name,
            dtype=getattr(torch, dtype),
            quantization_config=GgufConfig(dequantize=True),
            low_cpu_mem_usage=True,
            local_files_only=True,
            trust_remote_code=False,
        )
    except (ValueError, KeyError, NotImplementedError, RuntimeError) as error:
        raise ModelUnfit(f"transformers cannot convert {source.name}: {error}") from error


def _check(model: Any, file: GgufFile, dtype: str) -> None:
    tokens = sample_tokens(file)
    positions = np.arange(len(tokens)) ** 3 * 17
    expected = PlainModel(file).logits(tokens, positions, np.triu(np.ones((len(tokens),) * 2, dtype=bool), 1))
    require_equal(plain_logits(model, tokens, positions.tolist()), expected, TOLERANCES[dtype], file.name)
