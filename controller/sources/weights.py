"""Which files of a model are data, and which may run code when they are loaded."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from pathlib import PurePosixPath

_PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".npy", ".npz", ".h5", ".keras", ".msgpack"}
_CODE = {".py", ".pyc", ".pyi", ".so", ".dll", ".dylib", ".sh", ".exe"}
_WEIGHTS = {".safetensors", ".gguf"}
# What GGUF files of these names hold, as llama.cpp's and the hub's users call them. None of it is a model. Models that
# were quantised with statistics say so in their names, too, beside their quantisation.
_SIGHT = re.compile(r"(?:^|[-_./])mmproj(?=[-_./])", re.IGNORECASE)
_STATISTICS = re.compile(r"(?:^|/)imatrix[-_.][^/]*$|[-_.]imatrix\.gguf$", re.IGNORECASE)
_BESIDE_QUANT = re.compile(r"[-_.](?:i?q\d|tq\d|bf16|f16)[^/]*[-_.]imatrix\.gguf$", re.IGNORECASE)
_ADAPTER = re.compile(r"(?:^|[-_./])(?:lora|adapter)(?=[-_./])", re.IGNORECASE)


def is_weights(name: str) -> bool:
    """Return whether this is a weights file in a format that has only data."""
    return PurePosixPath(name).suffix.lower() in _WEIGHTS


def is_pickle(name: str, beside: Collection[str] = ()) -> bool:
    """Return whether loading this file may run code; `beside` has its neighbours (OpenVINO's .bin has an .xml)."""
    path = PurePosixPath(name)
    if path.suffix.lower() == ".bin" and str(path.with_suffix(".xml")) in beside:
        return False
    return path.suffix.lower() in _PICKLES


def is_code(name: str) -> bool:
    """Return whether this file is a program or a part of one."""
    return PurePosixPath(name).suffix.lower() in _CODE


def refusal(name: str) -> str:
    """Return the error text for a file that may run code, if a source has no other weights."""
    return (
        f"{name} is a pickle (or another format that may run code when it is loaded), which is never loaded. "
        "Use a model in the format .safetensors or .gguf."
    )


def gguf_addition(name: str) -> str | None:
    """Return what a GGUF file of this name is instead of a model, such as `mmproj-f16.gguf`; None if it may be one."""
    if _SIGHT.search(name):
        return "the part of a model that sees or hears"
    if _STATISTICS.search(name) and not _BESIDE_QUANT.search(name):
        return "statistics for quantising a model"
    return None


def gguf_models(names: Iterable[str]) -> list[str]:
    """Return the GGUF files among these that may be models, in the order of their names.

    A LoRA adapter counts only without others: a model into which one was merged has that in its name, too.
    """
    ggufs = sorted(name for name in names if name.lower().endswith(".gguf") and gguf_addition(name) is None)
    return [name for name in ggufs if not _ADAPTER.search(name)] or ggufs
