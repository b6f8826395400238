"""What an engine needs made from a model's files, once: a download here, a conversion in a container."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from controller.deployment.engines import Engine
from controller.docker.container import Container
from controller.docker.service import DockerService
from controller.errors import Cancelled, ModelBusy, PreparationFailed, SourceError
from controller.registry import ModelSpec
from controller.sources import Progress, SourceStore, StoredSource
from controller.supervisor.backend import ModelFacts, OnProgress, PreparationProgress
from controller.supervisor.failures.card import failure_card
from controller.system import file_lock
from controller.system.files import write_atomic, writing_to

log = logging.getLogger(__name__)

POLL_S = 0.5
LOG_LINES = 20
# A conversion tells how far it is; one that says nothing for so long is at nothing.
SILENT_AT_MOST_S = 3600.0
TURN_WITHIN_S = 10.0
# Of what the runner writes into a volume; counted up when older volumes are no longer good.
PREPARED_FORMAT = 3


class Clock(Protocol):
    """The part of the `time` module that waiting for a container needs."""

    def sleep(self, seconds: float, /) -> None: ...


@dataclass(frozen=True, kw_only=True)
class PreparedFacts:
    """What the conversion reported of its result, kept on the host beside the volume's birth."""

    volume: str
    created_at: str
    weights_bytes: int
    parameters: int
    kv_bytes_per_token: int
    context_length: int | None
    dtype: str
    architecture: str = ""
    has_tools: bool = False


class Preparation:
    """Makes models ready to be served and remembers that they are. Thread-safe."""

    def __init__(
        self,
        *,
        store: SourceStore,
        docker: DockerService,
        engines: Mapping[str, Engine],
        facts_dir: Path,
        clock: Clock = time,
    ) -> None:
        self._store = store
        self._engines = engines
        self._docker = docker
        self._facts_dir = facts_dir
        self._clock = clock

    def stored(self, spec: ModelSpec) -> StoredSource | None:
        """The model's downloaded files; None before the download is complete. No network, no Docker."""
        return self._store.lookup(spec.source, spec.sha256)

    def volume(self, spec: ModelSpec, stored: StoredSource | None) -> str | None:
        """The name of the volume for the prepared form, None for a model that is served from its files as they are.

        Named by model, engine, content and dtype, so that changed files never meet an old conversion.
        """
        if not self._must_convert(spec, stored):
            return None
        content = "not-downloaded"
        if stored is not None:
            content = hashlib.sha256(f"{stored.content_hash} {spec.dtype} {PREPARED_FORMAT}".encode()).hexdigest()[:12]
        return f"{self._docker.project}_{spec.id}.{spec.engine}.{content}"

    def facts(self, spec: ModelSpec, stored: StoredSource | None) -> PreparedFacts | None:
        """What is known of the prepared form; None while there is none. No Docker."""
        volume = self.volume(spec, stored)
        if volume is None:
            return None
        try:
            return PreparedFacts(**json.loads((self._facts_dir / f"{volume}.json").read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def describe(self, spec: ModelSpec) -> ModelFacts | None:
        """What is known of the model's files; None while they are not here. No Docker."""
        try:
            stored = self.stored(spec)
            modified_at_s = stored.path.stat().st_mtime if stored else 0.0
        except (SourceError, OSError):
            return None
        if stored is None:
            return None
        made = self.facts(spec, stored)
        return ModelFacts(
            size_bytes=stored.total_bytes,
            content_hash=stored.content_hash,
            modified_at_s=modified_at_s,
            files=stored.files,
            parameters=(made.parameters or None) if made else None,
            context_length=spec.context_length or (made.context_length or None if made else None),
            architecture=made.architecture if made else "",
            dtype=made.dtype if made else spec.dtype,
            has_tools=made.has_tools if made else False,
        )

    def is_complete(self, spec: ModelSpec) -> bool:
        """Whether a start would find everything made. No Docker."""
        stored = self.stored(spec)
        return stored is not None and (not self._must_convert(spec, stored) or self.facts(spec, stored) is not None)

    def download(self, spec: ModelSpec, *, on_progress: OnProgress, cancelled: Callable[[], bool]) -> StoredSource:
        """Fetch the model's files, or find them there. Raises SourceError, or Cancelled soon after `cancelled()`."""

        def relay(progress: Progress) -> None:
            on_progress(_downloading(progress))

        return self._store.fetch(spec.source, spec.sha256, on_progress=relay, cancelled=cancelled)

    def convert(self, spec: ModelSpec, *, service: str, on_progress: OnProgress, cancelled: Callable[[], bool]) -> None:
        """Run the prepare service of a downloaded model unless its result is there; the Compose file must name it.

        Raises PreparationFailed with the container's last words, Cancelled, or a Docker error.
        """
        with self._turn(spec.id, cancelled):
            stored = self.stored(spec)
            volume = self.volume(spec, stored)
            if stored is None or volume is None or self._is_current(spec, stored, volume):
                return
            for old in self._docker.preparations(spec.id):
                self._docker.remove(old.id)
            self._docker.up(service)
            (container,) = self._docker.preparations(spec.id)
            try:
                report = self._wait(container, on_progress, cancelled)
            finally:
                self._docker.remove(container.id)
            self._remember(volume, report)

    def delete(self, spec: ModelSpec) -> int:
        """Remove downloaded files, prepared volumes and what was remembered of them; returns the bytes of the files.

        The model's containers must be gone: a volume in use stays, with Docker's error. Raises ModelBusy while another
        process prepares the model.
        """
        with self._turn(spec.id, lambda: False, within_s=TURN_WITHIN_S):
            for container in self._docker.preparations(spec.id):
                self._docker.remove(container.id)
            for volume in self._docker.volumes(spec.id):
                self._docker.remove_volume(volume)
                (self._facts_dir / f"{volume}.json").unlink(missing_ok=True)
            return self._store.delete(spec.source)

    def end_orphans(self) -> None:
        """Remove the containers of preparations that nobody waits for: whoever did was killed, or lost sight of Docker.

        What another process waits for goes on. Raises FilesUnwritable or a Docker error.
        """
        with writing_to(self._facts_dir):
            for container in self._docker.preparations():
                with suppress(ModelBusy), self._turn(container.model_id, lambda: False, within_s=0):
                    self._docker.remove(container.id)
                    log.warning("%s: removed, for nobody waits for it any more", container.name)

    @contextmanager
    def _turn(self, model_id: str, cancelled: Callable[[], bool], within_s: float = math.inf) -> Iterator[None]:
        """One at a time for each model, also across processes: the controller and `provision` share the folder."""
        waited_s = 0.0

        def stop_if_cancelled() -> None:
            if cancelled():
                raise Cancelled(f"preparing {model_id} was cancelled")

        def wait(seconds: float) -> None:
            nonlocal waited_s
            if waited_s >= within_s:
                raise ModelBusy(f"{model_id} is being prepared by another process; try again when that is over")
            self._clock.sleep(seconds)
            waited_s += seconds
            stop_if_cancelled()

        self._facts_dir.mkdir(parents=True, exist_ok=True)
        stop_if_cancelled()
        with file_lock.hold(self._facts_dir / f"{model_id}.lock", wait):
            yield

    def _must_convert(self, spec: ModelSpec, stored: StoredSource | None) -> bool:
        """Tell whether the engine cannot serve the files as they are; before the download the source's name decides."""
        return self._engines[spec.engine].must_convert(stored.files if stored else (str(spec.source),))

    def _is_current(self, spec: ModelSpec, stored: StoredSource, volume: str) -> bool:
        """Whether it is the very volume that was filled: `down --volumes` and a new `up` leave an empty namesake."""
        facts = self.facts(spec, stored)
        return facts is not None and facts.created_at == str(self._docker.volume_created_at(volume))

    def _wait(self, container: Container, on_progress: OnProgress, cancelled: Callable[[], bool]) -> dict[str, Any]:
        """Poll until the container ends (prepared once per model, so a poll is cheap enough); its report."""
        said: list[str] = []
        silent_s = 0.0
        while True:
            now = self._docker.inspect(container.id)
            lines = self._docker.logs(container.id, tail=LOG_LINES)
            if now is None:
                raise PreparationFailed(f"the container that prepares {container.model_id} was removed; try again")
            if not now.running and now.status != "created":
                break
            if cancelled():
                raise Cancelled(f"preparing {container.model_id} was cancelled")
            silent_s, said = (silent_s + POLL_S if lines == said else 0.0), lines
            if silent_s >= SILENT_AT_MOST_S:
                raise PreparationFailed(
                    f"preparing {container.model_id} wrote nothing for {silent_s:.0f} s and was ended; try again",
                    details=failure_card("preparing", now, log=lines).as_details(),
                )
            on_progress(_converting(lines))
            self._clock.sleep(POLL_S)
        if now.exit_code != 0:
            raise _failure(now, lines)
        return _last_json(lines)

    def _remember(self, volume: str, report: dict[str, Any]) -> None:
        facts = PreparedFacts(
            volume=volume,
            created_at=str(self._docker.volume_created_at(volume)),
            weights_bytes=int(report.get("weights_bytes", 0)),
            parameters=int(report.get("parameters", 0)),
            kv_bytes_per_token=int(report.get("kv_bytes_per_token", 0)),
            context_length=report.get("context_length"),
            dtype=str(report.get("dtype", "")),
            architecture=str(report.get("architecture", "")),
            has_tools=bool(report.get("has_tools", False)),
        )
        write_atomic(self._facts_dir / f"{volume}.json", json.dumps(asdict(facts), indent=2) + "\n")


def _downloading(progress: Progress) -> PreparationProgress:
    fraction = progress.done_bytes / progress.total_bytes if progress.total_bytes else None
    return PreparationProgress(
        phase=progress.phase, fraction=fraction, done_bytes=progress.done_bytes, total_bytes=progress.total_bytes
    )


def _converting(lines: list[str]) -> PreparationProgress:
    report = _last_json(lines)
    fraction = report.get("fraction")
    return PreparationProgress(
        phase=str(report.get("phase", "converting")), fraction=fraction if isinstance(fraction, float) else None
    )


def _last_json(lines: list[str]) -> dict[str, Any]:
    for line in reversed(lines):
        if line.startswith("{"):
            try:
                found = json.loads(line)
            except ValueError:
                continue
            if isinstance(found, dict):
                return found
    return {}


def _failure(container: Container, lines: list[str]) -> PreparationFailed:
    said = next((line for line in reversed(lines) if line.strip()), "it wrote nothing")
    hint = "; raise resources.memory" if container.oom_killed else ""
    return PreparationFailed(
        f"preparing {container.model_id} failed (exit code {container.exit_code}): {said}{hint}",
        details=failure_card("preparing", container, log=lines).as_details(),
    )
