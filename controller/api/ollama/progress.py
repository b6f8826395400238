"""A pull in Ollama's form. Pure."""

from __future__ import annotations

from typing import Any

from controller.api.dispatch import as_json
from controller.error_bodies import ollama_error
from controller.errors import OrchestrarError
from controller.supervisor import ModelView
from controller.supervisor.backend import PreparationProgress

SUCCESS = {"status": "success"}


class StatusLines:
    """One pull as lines of JSON. See `pulls.PullFormat`."""

    stream_type = "application/x-ndjson"

    def __init__(self, digest: str) -> None:
        self._digest = digest
        # Its clients know no empty line, so the last one is repeated.
        self._last: dict[str, Any] = {"status": "pulling manifest"}

    def progress(self, progress: PreparationProgress) -> bytes:
        """Return a status line. Clients draw one bar for each digest, so only a download gets one."""
        if progress.phase == "downloading" and progress.total_bytes:
            self._last = {
                "status": f"pulling {self._digest[:12]}",
                "digest": f"sha256:{self._digest}",
                "total": progress.total_bytes,
                "completed": progress.done_bytes or 0,
            }
        else:
            self._last = {"status": progress.phase}
        return as_json(self._last)

    def silence(self) -> bytes:
        return as_json(self._last)

    def success(self, view: ModelView) -> bytes:
        return as_json(SUCCESS)

    def error(self, error: OrchestrarError, request_id: str) -> bytes:
        return as_json(ollama_error(error, request_id))
