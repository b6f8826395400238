"""What conversions reported of their results, kept on the host beside the volumes."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from controller.system.files import write_atomic


@dataclass(frozen=True, kw_only=True)
class PreparedFacts:
    """The facts about one prepared volume. `created_at` tells it from a later volume of the same name."""

    volume: str
    created_at: str
    weights_bytes: int
    parameters: int
    kv_bytes_per_token: int
    context_length: int | None
    dtype: str
    architecture: str = ""
    has_tools: bool = False


class PreparedFactsFolder:
    """One JSON file per volume."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, volume: str) -> PreparedFacts | None:
        """Return the volume's facts; None if there are none that can be read."""
        try:
            return PreparedFacts(**json.loads(self._file(volume).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def write(self, volume: str, *, created_at: str, report: dict[str, Any]) -> None:
        """Keep what the conversion reported."""
        facts = PreparedFacts(
            volume=volume,
            created_at=created_at,
            weights_bytes=int(report.get("weights_bytes", 0)),
            parameters=int(report.get("parameters", 0)),
            kv_bytes_per_token=int(report.get("kv_bytes_per_token", 0)),
            context_length=report.get("context_length"),
            dtype=str(report.get("dtype", "")),
            architecture=str(report.get("architecture", "")),
            has_tools=bool(report.get("has_tools", False)),
        )
        write_atomic(self._file(volume), json.dumps(asdict(facts), indent=2) + "\n")

    def remove(self, volume: str) -> None:
        """Forget the volume's facts."""
        self._file(volume).unlink(missing_ok=True)

    def _file(self, volume: str) -> Path:
        return self._folder / f"{volume}.json"
