"""What the names of a model's files tell of its weights."""

from __future__ import annotations

import re
from collections.abc import Iterable

# As llama.cpp's tools write it into file names: model.Q4_K_M.gguf, model-f16.gguf.
_QUANTIZATION = re.compile(r"(?:^|[-_.])((?:IQ|Q)[0-9](?:_[0-9A-Z]+)*|BF16|F16|F32)(?=[-.]|$)", re.IGNORECASE)
_SHORT_DTYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}


def file_format(names: Iterable[str]) -> str:
    """The form of weights that the files' names tell, empty for none that is known."""
    lowered = [name.lower() for name in names]
    endings = {"gguf": ".gguf", "safetensors": ".safetensors", "openvino": "openvino_model.xml"}
    return next((form for form, end in endings.items() if any(name.endswith(end) for name in lowered)), "")


def quantization(names: Iterable[str], dtype: str = "") -> str:
    """How the weights are written, such as Q4_K_M: from a GGUF file's name, else from the type of their numbers."""
    stems = (name[: -len(".gguf")] for name in names if name.lower().endswith(".gguf"))
    found = next((match for stem in stems if (match := _QUANTIZATION.search(stem))), None)
    return found.group(1).upper() if found else _SHORT_DTYPES.get(dtype, "")
