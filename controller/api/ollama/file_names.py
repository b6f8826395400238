"""What the names of a model's files say about its weights."""

from __future__ import annotations

import re
from collections.abc import Iterable

# As llama.cpp's tools write it into file names: model.Q4_K_M.gguf, model-f16.gguf.
_QUANTIZATION = re.compile(r"(?:^|[-_.])((?:IQ|Q)[0-9](?:_[0-9A-Z]+)*|BF16|F16|F32)(?=[-.]|$)", re.IGNORECASE)
_WEIGHTS_ENDINGS = (".gguf", ".safetensors", "openvino_model.xml")
_SHORT_DTYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}


def file_format(names: Iterable[str]) -> str:
    """Return the format of the weights by the files' names, empty if it is none that is known."""
    lower_names = [name.lower() for name in names]
    ending = next((ending for ending in _WEIGHTS_ENDINGS if any(name.endswith(ending) for name in lower_names)), "")
    return ending.removeprefix(".").removesuffix("_model.xml")


def quantization(names: Iterable[str], dtype: str = "") -> str:
    """Return how the weights are written, such as Q4_K_M: by a GGUF file's name, else by the type of their numbers."""
    stems = (name[: -len(".gguf")] for name in names if name.lower().endswith(".gguf"))
    matches = (_QUANTIZATION.search(stem) for stem in stems)
    first = next((match for match in matches if match is not None), None)
    return first.group(1).upper() if first else _SHORT_DTYPES.get(dtype, "")
