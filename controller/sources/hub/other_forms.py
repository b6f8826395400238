"""Forms of weights that no engine of ours reads: by the names of a repository's files, and by its config.json. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from typing import Any

# Of each form the files that only it has.
_FORMS = {
    "MLX": re.compile(r"(.*/)?weights(\.\d+)?\.npz"),
    "MLC": re.compile(r"(.*/)?params_shard_\d+\.bin"),
    "ONNX": re.compile(r".*\.onnx(_data)?"),
    "NeMo": re.compile(r".*\.nemo"),
    "TensorRT": re.compile(r".*\.(engine|plan|trt)"),
    "Core ML": re.compile(r".*\.(mlmodel|mlpackage/.*|mlmodelc/.*)"),
    "TensorFlow Lite": re.compile(r".*\.(tflite|litertlm|task)"),
    "ExecuTorch": re.compile(r".*\.pte"),
    "llamafile": re.compile(r".*\.llamafile"),
}
_NAMES = {
    "awq": "AWQ",
    "bitsandbytes": "bitsandbytes",
    "exl2": "EXL2 (ExLlamaV2)",
    "exl3": "EXL3 (ExLlamaV3)",
    "gptq": "GPTQ",
    "hqq": "HQQ",
    "mlx": "MLX",
    "modelopt": "TensorRT Model Optimizer",
}
# The methods that transformers 5.23, which the runner has, loads without a further library and without a GPU.
_READABLE_METHODS = {"bitnet", "fp8", "gemma", "metal", "mxfp4", "mxfp8", "sinq"}
# Before config.json had it, the method stood in a file of its own.
_METHOD_FILES = {"quantize_config.json": "gptq", "quant_config.json": "awq", "hf_quant_config.json": "modelopt"}


def form_of(names: Collection[str]) -> tuple[str, str] | None:
    """Return the form of a repository's files, and a file that shows it; None if it is none of these forms."""
    signs = ((form, name) for form, pattern in _FORMS.items() for name in sorted(names) if pattern.fullmatch(name))
    return next(signs, None)


def is_of_other_form(name: str) -> bool:
    """Tell whether this file's name shows one of these forms."""
    return any(pattern.fullmatch(name) for pattern in _FORMS.values())


def packed_form(config_text: bytes | None, names: Collection[str]) -> str | None:
    """Return the method by which a repository's safetensors are quantised; None if they are plain, or can be read."""
    method = _method(_object(config_text)) or next((m for name, m in _METHOD_FILES.items() if name in names), "")
    if not method or method in _READABLE_METHODS:
        return None
    return _NAMES.get(method, method)


def _object(text: bytes | None) -> dict[str, Any]:
    try:
        config = json.loads(text or b"{}")
    except (ValueError, RecursionError):
        return {}  # The engine that loads it says what is wrong with it.
    return config if isinstance(config, dict) else {}


def _method(config: dict[str, Any]) -> str:
    """Return `quant_method` in small letters, or what stands for it; empty without one."""
    if isinstance(config.get("compression_config"), dict):
        return "compressed-tensors"
    entries = [config.get("quantization_config"), config.get("quantization")]
    for entry in entries:
        if not isinstance(entry, dict):
            continue
        if method := str(entry.get("quant_method") or ""):
            method = method.lower()
            return "bitsandbytes" if method.startswith("bitsandbytes") else method
        if entry.get("load_in_4bit") or entry.get("load_in_8bit"):
            return "bitsandbytes"
        if "group_size" in entry and "bits" in entry:
            return "mlx"
    return ""
