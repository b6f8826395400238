"""What rendering needs of each model: its entry in models.yaml, its port, its files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from controller.registry import ModelSpec


@dataclass(frozen=True, kw_only=True)
class ModelFiles:
    """A model's files, as far as they are known; sizes are None before the download."""

    source: Path
    source_is_folder: bool
    source_bytes: int | None = None
    parts: tuple[str, ...] = ()
    """The files of the folder `source` that the container gets, if it does not get all of them."""
    file_to_load: str | None = None
    """The one file of the source that the engine loads; None if it gets the folder."""
    volume: str | None = None
    """The named volume of the converted files; None if the engine reads the source as it is."""
    weights_bytes: int | None = None
    parameters: int = 0
    kv_bytes_per_token: int = 0
    context_length: int | None = None


@dataclass(frozen=True, kw_only=True)
class Target:
    """One model to render: its entry, its host port and its files."""

    spec: ModelSpec
    port: int
    files: ModelFiles
