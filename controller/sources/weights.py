"""Which files of a model are data, and which could run code when somebody loads them."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import PurePosixPath

_PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".npy", ".npz", ".h5", ".keras", ".msgpack"}
_CODE = {".py", ".pyc", ".pyi", ".so", ".dll", ".dylib", ".sh", ".exe"}
_WEIGHTS = {".safetensors", ".gguf"}


def is_weights(name: str) -> bool:
    """Whether this is a weights file in a format that is data only."""
    return PurePosixPath(name).suffix.lower() in _WEIGHTS


def is_pickle(name: str, beside: Collection[str] = ()) -> bool:
    """Whether loading this file may run code; `beside` names its neighbours (OpenVINO's .bin has an .xml)."""
    path = PurePosixPath(name)
    if path.suffix.lower() == ".bin" and str(path.with_suffix(".xml")) in beside:
        return False
    return path.suffix.lower() in _PICKLES


def is_code(name: str) -> bool:
    """Whether this file is a program or a part of one."""
    return PurePosixPath(name).suffix.lower() in _CODE


def refusal(name: str) -> str:
    """The sentence for a source that is, or holds only, a file that could run code."""
    return (
        f"{name} is a pickle (or another format that may run code when it is loaded), which is never loaded. "
        "Use a model that comes as .safetensors or .gguf."
    )
