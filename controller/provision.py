"""`python -m controller.provision [MODEL …]`: download and prepare models without a running controller."""

from __future__ import annotations

import argparse
import os
import sys
import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from controller.composition import compose_deployment, read_registry
from controller.deployment.deployment import Deployment
from controller.deployment.engine_templates import read_engines
from controller.docker.service import DockerService
from controller.errors import ConfigInvalid, ImageMissing, OrchestrarError, PreparationFailed, SourceError
from controller.registry import DeployedModels
from controller.settings import Settings
from controller.supervisor.backend import PreparationProgress
from controller.system.sizes import MIB

HEARTBEAT_S = 5.0
# No model was named, and the first of models.yaml could not be prepared. All else is in order, so that the controller
# can start and serve the others.
FIRST_MODEL_FAILED = 3
# What is wrong with the model, its source or its image, and not with this machine's Docker or disk.
_MODEL_ERRORS = (SourceError, PreparationFailed, ImageMissing)


def main(arguments: list[str] | None = None) -> int:
    """Return the exit code: 0 if all models are prepared, 1 if one failed, 2 for a broken configuration.

    It is FIRST_MODEL_FAILED if no model was named and the first one is not usable; its error is the last line then.
    """
    parser = argparse.ArgumentParser(prog="python -m controller.provision", description=__doc__)
    parser.add_argument(
        "models", nargs="*", metavar="MODEL", help="ids or aliases; none means the first of models.yaml"
    )
    parser.add_argument("--engines", action="store_true", help="only print which engines' images the models need")
    options = parser.parse_args(arguments)
    names = options.models
    try:
        settings = Settings.from_environ(os.environ)
        registry = read_registry(settings)
        docker = DockerService(project=settings.project, compose_dir=settings.compose_dir)
        engines = read_engines(settings.templates_dir)
        # It builds no images: `make up` holds the set-up's lock while it runs us, and waits for no compiler.
        deployment = compose_deployment(settings, DeployedModels(registry), docker, engines)
        if options.engines:
            # With `auto`, files that are here may have decided for another engine than the source's name.
            specs = [deployment.decided(spec) for spec in registry.models.values()]
            print("\n".join(sorted({spec.engine for spec in specs if spec.image is None})))
            return 0
        deployment.write()
        failure = None
        try:
            for name in names or [next(iter(registry.models))]:
                _prepare(deployment, registry.resolve(name).id)
        except _MODEL_ERRORS as exc:
            if names:
                raise
            failure = exc
        docker.config_hashes()  # lets Compose check the file and the user's override before the first request
        if failure is not None:
            print(failure.message, file=sys.stderr)
            return FIRST_MODEL_FAILED
    except ConfigInvalid as exc:
        print("\n".join(exc.problems), file=sys.stderr)
        return 2
    except OrchestrarError as exc:
        print(exc.message, file=sys.stderr)
        return 1
    return 0


def _prepare(deployment: Deployment, model_id: str) -> None:
    began_at = time.monotonic()
    console = Console(stderr=False)
    display = _Bar(console, model_id) if console.is_terminal else _Lines(model_id)
    with display:
        deployment.prepare(model_id, display.show, lambda: False)
    print(f"{model_id}: downloaded and prepared ({time.monotonic() - began_at:.1f} s)", flush=True)


def _progress_text(progress: PreparationProgress) -> str:
    if progress.done_bytes is None:
        return progress.phase if progress.fraction is None else f"{progress.phase} {progress.fraction:.0%}"
    total = f" of {progress.total_bytes / MIB:.0f}" if progress.total_bytes else ""
    return f"{progress.phase} {progress.done_bytes / MIB:.0f}{total} MiB"


class _Bar:
    """Shows progress on a terminal."""

    def __init__(self, console: Console, model_id: str) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=console, transient=True)
        self._task = self._progress.add_task(model_id, total=None)
        self._model_id = model_id

    def __enter__(self) -> _Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, progress: PreparationProgress) -> None:
        total = None if progress.fraction is None else 1.0
        text = f"{self._model_id}: {_progress_text(progress)}"
        self._progress.update(self._task, description=text, total=total, completed=progress.fraction or 0.0)


class _Lines:
    """Writes progress to a log: a line for each phase, and one every HEARTBEAT_S."""

    def __init__(self, model_id: str) -> None:
        self._model_id = model_id
        self._phase = ""
        self._shown_at = 0.0

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def show(self, progress: PreparationProgress) -> None:
        now = time.monotonic()
        if progress.phase != self._phase or now - self._shown_at >= HEARTBEAT_S:
            self._phase, self._shown_at = progress.phase, now
            print(f"{self._model_id}: {_progress_text(progress)}", flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
