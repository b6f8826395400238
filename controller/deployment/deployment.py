"""The Compose project on Docker: the supervisor's `Backend`, and what a reload and `provision` need."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import timedelta

from controller.deployment.compose_file import ComposeFile
from controller.deployment.engine_choice import EngineChoices, Refusal
from controller.deployment.images import Images
from controller.deployment.memory_budget import MemoryBudget
from controller.deployment.ports import PortBook
from controller.deployment.preparation import Preparation
from controller.deployment.rendering.render import prepare_service
from controller.deployment.service_start import ServiceStart
from controller.deployment.template_trial import problem_of
from controller.docker.cgroup import working_set_bytes
from controller.docker.container import Container, Usage
from controller.docker.endings import Ending
from controller.docker.service import DockerService
from controller.errors import ModelBusy, ModelUnfit, PreparationFailed
from controller.registry import DeployedModels, LiveRegistry, ModelSpec, Registry
from controller.supervisor.backend import Amount, ModelFacts, OnProgress
from controller.supervisor.failures.card import failure_card
from controller.system.files import writing_to

log = logging.getLogger(__name__)

LOG_LINES = 30
# Docker records a container's start only when it runs; one that fails at once has written its reason before that.
WRITES_BEFORE = timedelta(milliseconds=250)


class Deployment:
    """The files, ports and containers of all models, one service at a time. Thread-safe; each method may block."""

    def __init__(
        self,
        *,
        deployed_models: DeployedModels,
        docker: DockerService,
        images: Images,
        preparation: Preparation,
        choices: EngineChoices,
        ports: PortBook,
        file: ComposeFile,
        memory_budget: MemoryBudget,
    ) -> None:
        self._deployed_models = deployed_models
        self._docker = docker
        self._images = images
        self._preparation = preparation
        self._choices = choices
        self._file = file
        self._memory_budget = memory_budget
        self._compose_lock = threading.Lock()
        self._service_start = ServiceStart(
            docker=docker,
            images=images,
            ports=ports,
            file=file,
            write=self.write,
        )

    def write(self) -> None:
        """Bring the Compose file up to date. Raises FilesUnwritable."""
        with self._compose_lock:
            self._file.write(self._deployed_models.now)

    def deploy(self, registry: Registry) -> None:
        """Write the Compose file for these models and switch the deployed ones to them, in one step.

        Raises FilesUnwritable or ConfigInvalid; then nothing has changed.
        """
        with self._compose_lock:
            self._file.write(registry)
            self._deployed_models.now = registry

    def service_texts(self, registry: Registry | LiveRegistry) -> dict[str, str]:
        """Return the text of each model's service in a Compose file of this registry."""
        return self._file.service_texts(registry)

    def outdated(self) -> set[str]:
        """Return the models whose templates have changed since the Compose file was written."""
        return self._file.outdated()

    def ports(self) -> dict[str, int]:
        """Return the host port of each model."""
        return self._file.ports()

    def is_prepared(self, model_id: str) -> bool:
        """Tell whether a start would need no download and no conversion. No Docker, no network."""
        choice = self._choices.of(self._deployed_models.spec(model_id))
        return not choice.problem and self._preparation.is_complete(choice.spec)

    def decided(self, spec: ModelSpec) -> ModelSpec:
        """Return the model on the engine that serves it, as far as its files decide that. No Docker, no network."""
        return self._choices.of(spec).spec

    def facts(self, model_id: str) -> ModelFacts | None:
        """Return what is known of the model's files; None before they are here. No Docker, no network."""
        return self._preparation.describe(self._spec(model_id))

    def require_image(self, model_id: str) -> None:
        """Raise ImageMissing, with the commands that fetch it, if the image is neither here nor built by `prepare`."""
        spec = self._spec(model_id)
        if not self._images.is_coming(spec):
            self._images.require(spec)

    def prepare(self, model_id: str, on_progress: OnProgress, cancelled: Callable[[], bool]) -> None:
        """Make all that a start needs: image, files, conversion; with `auto` also the choice of the engine.

        Raises SourceError, PreparationFailed, FilesUnwritable or a Docker error.
        """
        entry = self._deployed_models.spec(model_id)
        _require_template(entry)
        if not entry.candidates:  # Before gigabytes of weights. With `auto` the weights decide which image it is.
            self._images.fetch(entry, on_progress=on_progress, cancelled=cancelled)
        budget_bytes = self._memory_budget.most_bytes
        self._preparation.download(entry, budget_bytes=budget_bytes, on_progress=on_progress, cancelled=cancelled)
        with writing_to(self._file.folder):
            self._choices.reconsider(entry, lambda engine: self._images.image_id(entry.on(engine, "")))
            tries = len(entry.candidates) + 1  # Each candidate may refuse; the last try says what all of them said.
            if not any(self._convert(entry, on_progress, cancelled) for _ in range(tries)):
                raise PreparationFailed(f"{model_id}: its files changed while it was prepared; try again")
        self.write()

    def _convert(self, entry: ModelSpec, on_progress: OnProgress, cancelled: Callable[[], bool]) -> bool:
        """Prepare the model for the engine that is chosen by now; False if that refused it and another one has to."""
        choice = self._choices.of(entry)
        spec = choice.spec
        if choice.problem:
            card = failure_card("preparing")
            raise PreparationFailed(f"{spec.id}: {choice.problem}", details=card.as_details())
        if entry.candidates:
            self._images.fetch(spec, on_progress=on_progress, cancelled=cancelled)
            self.require_image(spec.id)
        self.write()
        service = prepare_service(spec.id)
        try:
            self._preparation.convert(spec, service=service, on_progress=on_progress, cancelled=cancelled)
        except ModelUnfit as refusal:
            if not entry.candidates:
                raise
            image_id = self._images.image_id(spec) or ""
            self._choices.refuse(entry, spec.engine, Refusal(reason=refusal.reason, image_id=image_id))
            log.info("%s: the %s engine does not serve it: %s", spec.id, spec.engine, refusal.reason)
            return False
        if entry.candidates:
            log.info("%s: served by %s: %s", spec.id, spec.engine, spec.engine_reason)
        return True

    def end_orphans(self) -> None:
        """Remove preparations that no process waits for. Raises FilesUnwritable or a Docker error."""
        self._preparation.end_orphans()

    def find_all(self) -> list[Container]:
        """Return every container of the project that serves a model."""
        return self._docker.models()

    def find(self, model_id: str) -> Container | None:
        """Return the model's container, running or not."""
        return self._docker.model(model_id)

    def inspect(self, container_id: str) -> Container | None:
        """Return the container as it is now; None if it is gone."""
        return self._docker.inspect(container_id)

    def ending(self, container_id: str) -> Ending:
        """Return how the container ended, as far as Docker's events show it."""
        return self._docker.ending(container_id)

    def resume(self, model_id: str) -> Container | None:
        """Start the model's exited container again as it is; None unless `up` would make the same one now."""
        return self._service_start.resume(model_id)

    def up(self, model_id: str) -> Container:
        """Bring the model's service up without waiting for its server.

        Raises PreparationFailed for a chat template that cannot be used, PortTaken or StartFailed.
        """
        spec = self._spec(model_id)
        _require_template(spec)
        return self._service_start.up(spec)

    def stop(self, container_id: str, *, grace_s: int) -> None:
        """Stop the container by its id; it has exited when this returns."""
        self._docker.stop(container_id, grace_s=grace_s)

    def logs(self, container: Container) -> list[str]:
        """Return its last lines, only of this run and the moment before it."""
        started_at = container.started_at
        since = None if started_at is None else started_at - WRITES_BEFORE
        return self._docker.logs(container.id, tail=LOG_LINES, since=since)

    def usage(self, container_ids: list[str]) -> dict[str, Usage]:
        """Return CPU and memory use per container."""
        return self._docker.usage(container_ids) if container_ids else {}

    def working_set(self, container_id: str) -> int | None:
        """Return the memory that it uses now, without reclaimable page cache; None if the kernel does not show it."""
        return working_set_bytes(container_id)

    def room(self, used_bytes: int) -> Amount:
        """Return what all models together may take, if they use `used_bytes` of it now."""
        return self._memory_budget.room(used_bytes)

    def needs(self, model_id: str, *, limit_bytes: int | None = None) -> Amount:
        """Return what to count for the model; `limit_bytes` is the limit of its container, if there is one."""
        return self._memory_budget.needs(self._file.demand(model_id), limit_bytes=limit_bytes)

    def observe(self, model_id: str, used_bytes: int) -> None:
        """Note what the model uses now, for later counts."""
        self._memory_budget.observe(self._file.demand(model_id), used_bytes)

    def drifted(self, containers: list[Container]) -> set[str]:
        """Return the models whose container differs from what the Compose files (with override) and images say now."""
        hashes = self._docker.config_hashes() if containers else {}
        images = {image: self._docker.image_id(image) for image in {c.image for c in containers}}
        return {
            c.model_id
            for c in containers
            if c.config_hash != hashes.get(c.service) or images[c.image] not in (None, c.image_id)
        }

    def delete_files(self, model_id: str) -> int:
        """Remove the model's exited container, prepared volumes and downloads; return the bytes of the downloads.

        Raises ModelBusy if a container serves the model, even if a user started it by hand.
        """
        container = self._docker.model(model_id)
        if container is not None and container.running:
            raise ModelBusy(f"{model_id} runs in {container.name}; stop it first (POST /stop), then delete its files")
        if container is not None:
            self._docker.remove(container.id)
        deleted_bytes = self._preparation.delete(self._spec(model_id))
        self._choices.forget(model_id)
        self.write()
        return deleted_bytes

    def _spec(self, model_id: str) -> ModelSpec:
        return self._choices.of(self._deployed_models.spec(model_id)).spec


def _require_template(spec: ModelSpec) -> None:
    """Raise PreparationFailed if the user's own chat template does not write a user's turn."""
    template = spec.chat_template
    if template is not None and (problem := problem_of(template.path, template.sha256)) is not None:
        raise PreparationFailed(
            f"{spec.id}: its chat template {template.path.name} cannot be used: {problem}; correct the file",
            details=failure_card("preparing").as_details(),
        )
