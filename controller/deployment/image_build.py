"""Builds an engine's image with the project's own set-up, as a process of its own."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

from controller.errors import Cancelled, PreparationFailed
from controller.supervisor.backend import OnProgress, PreparationProgress
from controller.system.commands import follow

PHASE = "building the image"
# The compiler's commands: of earlier steps, of this step so far, and of all steps.
_COMPILED = re.compile(r"\[(\d+)\+(\d+)/(\d+)\]")
_ERROR = "error: "


class ImageBuild:
    """Blocks for minutes. One build of an image at a time, also across processes: the set-up holds a lock."""

    def __init__(self, checkout: Path) -> None:
        self._checkout = checkout

    def run(self, engine: str, *, on_progress: OnProgress, cancelled: Callable[[], bool]) -> None:
        """Build the image unless it is there by now.

        Raises PreparationFailed with the set-up's reason, or Cancelled. The steps that were finished are kept then.
        """
        reasons: list[str] = []

        def note(line: str) -> None:
            if line.startswith(_ERROR):
                reasons.append(line.removeprefix(_ERROR).strip())
            if match := _COMPILED.search(line):
                earlier, now, total = map(int, match.groups())
                on_progress(PreparationProgress(phase=PHASE, fraction=min((earlier + now) / max(total, 1), 1.0)))

        on_progress(PreparationProgress(phase=PHASE))
        command = [sys.executable, "-m", "scripts.setup", "engine-image", engine]
        try:
            # Its own session: Ctrl-C ends a controller in the foreground, which then ends the build by `cancelled`.
            code = follow(command, on_line=note, cancelled=cancelled, folder=self._checkout, is_apart=True)
        except OSError as exc:
            raise PreparationFailed(f"the image of {engine} could not be built: {exc}") from exc
        if code is None:
            raise Cancelled(
                f"building the image of {engine} was cancelled; the next build continues from its last step"
            )
        if code != 0:
            reason = reasons[-1] if reasons else f"the set-up ended with exit code {code}"
            prefix = "" if "could not be" in reason else f"the image of {engine} could not be built: "
            raise PreparationFailed(f"{prefix}{reason}")
