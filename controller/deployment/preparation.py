"""What a start needs of a model's files, made once: a download here, a conversion in a container."""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from controller.deployment.conversion import Clock, Conversion
from controller.deployment.engines import Engine
from controller.deployment.prepared_facts import PreparedFacts, PreparedFactsFolder
from controller.deployment.rendering.memory_limits import room_for_gguf
from controller.docker.service import DockerService
from controller.errors import Cancelled, ModelBusy, ModelUnfit, OrchestrarError, SourceError
from controller.registry import ModelSpec
from controller.sources import Progress, SourceStore, StoredSource, Taker
from controller.supervisor.backend import ModelFacts, OnProgress, PreparationProgress
from controller.system import file_lock
from controller.system.files import writing_to

log = logging.getLogger(__name__)

# How long a deletion waits while another process prepares the model.
DELETE_WAIT_S = 10.0
# The format of what the runner writes into a volume; a higher number makes older volumes invalid.
PREPARED_FORMAT = 4


class Preparation:
    """Makes models ready to be served, and keeps what is known of the results. Thread-safe."""

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
        self._docker = docker
        self._engines = engines
        self._facts_dir = facts_dir
        self._facts = PreparedFactsFolder(facts_dir)
        self._clock = clock
        self._conversion = Conversion(docker, clock)

    def find_source(self, spec: ModelSpec) -> StoredSource | None:
        """Return the model's downloaded files; None before the download is complete. No network, no Docker."""
        return self._store.lookup(spec.source, spec.sha256)

    def volume(self, spec: ModelSpec, source: StoredSource | None) -> str | None:
        """Return the name of the volume for the converted files; None if the engine reads the source's files.

        Model, engine, content and dtype are part of the name, so that changed files never meet an old conversion.
        """
        if not self._must_convert(spec, source):
            return None
        content = "not-downloaded"
        if source is not None:
            content = hashlib.sha256(f"{source.content_hash} {spec.dtype} {PREPARED_FORMAT}".encode()).hexdigest()[:12]
        return f"{self._docker.project}_{spec.id}.{spec.engine}.{content}"

    def facts(self, spec: ModelSpec, source: StoredSource | None) -> PreparedFacts | None:
        """Return what is known of the converted files; None without a conversion. No Docker."""
        volume = self.volume(spec, source)
        return None if volume is None else self._facts.read(volume)

    def describe(self, spec: ModelSpec) -> ModelFacts | None:
        """Return what is known of the model's files; None while they are not here. No Docker."""
        try:
            source = self.find_source(spec)
            modified_at_s = source.path.stat().st_mtime if source else 0.0
        except (SourceError, OSError):
            return None
        if source is None:
            return None
        facts = self.facts(spec, source)
        return ModelFacts(
            size_bytes=source.total_bytes,
            content_hash=source.content_hash,
            modified_at_s=modified_at_s,
            files=source.files,
            parameters=(facts.parameters or None) if facts else None,
            context_length=spec.context_length or (facts.context_length or None if facts else None),
            architecture=facts.architecture if facts else "",
            dtype=facts.dtype if facts else spec.dtype,
            has_tools=spec.chat_template.has_tools if spec.chat_template else bool(facts and facts.has_tools),
        )

    def is_complete(self, spec: ModelSpec) -> bool:
        """Tell whether a start would need no download and no conversion. No Docker."""
        source = self.find_source(spec)
        return source is not None and (not self._must_convert(spec, source) or self.facts(spec, source) is not None)

    def download(
        self,
        spec: ModelSpec,
        *,
        budget_bytes: Callable[[], int],
        on_progress: OnProgress,
        cancelled: Callable[[], bool],
    ) -> StoredSource:
        """Fetch the model's files unless they are here. Raises SourceError, or Cancelled soon after `cancelled()`.

        `budget_bytes`, what all models may take together, decides between several quantisations in a repository.
        """
        takers = [c.engine for c in spec.candidates if c.engine in self._engines] or [spec.engine]
        of_gguf = (c.engine for c in spec.candidates if c.engine in takers and c.takes(["model.gguf"]))
        engine = self._engines[next(of_gguf, spec.engine)]
        return self._store.fetch(
            spec.source,
            spec.sha256,
            taker=Taker(
                room=lambda: room_for_gguf(spec, engine, budget_bytes),
                reads_quantised=any(self._engines[name].reads_any_weights for name in takers),
            ),
            on_progress=lambda progress: on_progress(_downloading(progress)),
            cancelled=cancelled,
        )

    def convert(self, spec: ModelSpec, *, service: str, on_progress: OnProgress, cancelled: Callable[[], bool]) -> None:
        """Run the prepare service of a downloaded model unless its result is there; the Compose file must name it.

        Raises ModelUnfit if the engine refuses the model, PreparationFailed, Cancelled, or a Docker error.
        """
        with self._prepare_lock(spec.id, cancelled):
            source = self.find_source(spec)
            volume = self.volume(spec, source)
            if source is None or volume is None or self._is_current(spec, source, volume):
                return
            try:
                report = self._conversion.run(spec.id, service, on_progress, cancelled)
            except ModelUnfit:
                with suppress(OrchestrarError):  # It is empty, and its model's files are deleted with it.
                    self._docker.remove_volume(volume)
                raise
            self._facts.write(volume, created_at=str(self._docker.volume_created_at(volume)), report=report)

    def delete(self, spec: ModelSpec) -> int:
        """Remove downloaded files, prepared volumes and their facts; return the number of bytes of the files.

        The model's containers must be gone: a volume in use stays, with Docker's error. Raises ModelBusy while another
        process prepares the model.
        """
        with self._prepare_lock(spec.id, lambda: False, within_s=DELETE_WAIT_S):
            for container in self._docker.preparations(spec.id):
                self._docker.remove(container.id)
            for volume in self._docker.volumes(spec.id):
                self._docker.remove_volume(volume)
                self._facts.remove(volume)
            return self._store.delete(spec.source)

    def end_orphans(self) -> None:
        """Remove the containers of preparations that no process waits for: it was killed, or lost sight of Docker.

        Preparations of other processes continue. Raises FilesUnwritable or a Docker error.
        """
        with writing_to(self._facts_dir):
            for container in self._docker.preparations():
                with suppress(ModelBusy), self._prepare_lock(container.model_id, lambda: False, within_s=0):
                    self._docker.remove(container.id)
                    log.warning("%s: removed, because no process waits for it any more", container.name)

    @contextmanager
    def _prepare_lock(self, model_id: str, cancelled: Callable[[], bool], within_s: float = math.inf) -> Iterator[None]:
        """Let one at a time prepare a model, also across processes: the controller and `provision` share the folder."""
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

    def _must_convert(self, spec: ModelSpec, source: StoredSource | None) -> bool:
        """Tell whether the engine cannot serve the files as they are; before the download the source's name decides."""
        return self._engines[spec.engine].must_convert(source.files if source else (str(spec.source),))

    def _is_current(self, spec: ModelSpec, source: StoredSource, volume: str) -> bool:
        """Tell whether the volume is the one that was filled: `down --volumes` and `up` leave an empty namesake."""
        facts = self.facts(spec, source)
        return facts is not None and facts.created_at == str(self._docker.volume_created_at(volume))


def _downloading(progress: Progress) -> PreparationProgress:
    fraction = progress.done_bytes / progress.total_bytes if progress.total_bytes else None
    return PreparationProgress(
        phase=progress.phase, fraction=fraction, done_bytes=progress.done_bytes, total_bytes=progress.total_bytes
    )
