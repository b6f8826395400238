"""Which files of a model are data, and which may run code when they are loaded."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import PurePosixPath

_PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".npy", ".npz", ".h5", ".keras", ".msgpack"}
_CODE = {".py", ".pyc", ".pyi", ".so", ".dll", ".dylib", ".sh", ".exe"}
_WEIGHTS = {".safetensors", ".gguf"}


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
