"""The image of a model's container: whether it is here, how to fetch it, and what to do without it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Protocol

from controller.deployment.engines import BY_DIGEST, BY_ID, Engine
from controller.docker.service import DockerService
from controller.errors import ImageMissing
from controller.registry import ModelSpec
from controller.supervisor.backend import OnProgress, PreparationProgress

PHASE = "fetching the image"


class Builder(Protocol):
    """Builds an engine's image; `image_build.ImageBuild` is the real one."""

    def run(self, engine: str, *, on_progress: OnProgress, cancelled: Callable[[], bool]) -> None: ...


class Images:
    """The images of all models. Thread-safe; blocks on Docker."""

    def __init__(
        self, *, docker: DockerService, engines: Mapping[str, Engine], api_url: str, builder: Builder | None
    ) -> None:
        """Without a builder nothing is built: the process has others wait, or the controller does it later."""
        self._docker = docker
        self._engines = engines
        self._api_url = api_url
        self._builder = builder

    def require(self, spec: ModelSpec) -> None:
        """Raise ImageMissing, with the commands that fetch it, if the model's image is not on this machine.

        No start downloads an image by itself: an image is code, so the user has to ask for it.
        """
        image = self._of(spec)
        if self._docker.image_id(image) is None:
            how, commands = self._remedy(spec, image)
            choices = " or ".join(f"`{command}`" for command in commands)
            raise ImageMissing(
                f"{spec.id}: its image {image} is not on this machine; {how} {choices}",
                details={"image": image, "commands": commands},
                is_built_here=self.builds(spec),
            )

    def builds(self, spec: ModelSpec) -> bool:
        """Tell whether the model's image is one that is built from this checkout."""
        return spec.image is None and self._engines[spec.engine].build is not None

    def is_coming(self, spec: ModelSpec) -> bool:
        """Tell whether a model that is prepared now gets its image later: a server's that the controller builds.

        Our own runner's has to be here: it converts the model's files.
        """
        return self.builds(spec) and (self._builder is not None or not self._engines[spec.engine].own)

    def fetch(self, spec: ModelSpec, *, on_progress: OnProgress, cancelled: Callable[[], bool]) -> None:
        """Fetch the model's image if it is not here: one by digest is pulled, one of ours is built, for minutes.

        Others are built or loaded by hand. Raises SourceError, PreparationFailed, Cancelled or a Docker error.
        """
        image = self._of(spec)
        is_pulled, is_built = bool(BY_DIGEST.fullmatch(image)), self.builds(spec) and self._builder is not None
        if not (is_pulled or is_built) or self._docker.image_id(image) is not None:
            return
        if self._builder is not None and is_built:
            self._builder.run(spec.engine, on_progress=on_progress, cancelled=cancelled)
            return

        def report(finished_layers: int, all_layers: int) -> None:
            on_progress(PreparationProgress(phase=PHASE, fraction=finished_layers / all_layers))

        on_progress(PreparationProgress(phase=PHASE))
        self._docker.pull(image, on_layers=report, cancelled=cancelled)

    def image_id(self, spec: ModelSpec) -> str | None:
        """Return the id of the model's image; None if it is not on this machine."""
        return self._docker.image_id(self._of(spec))

    def _of(self, spec: ModelSpec) -> str:
        image = spec.image or self._engines[spec.engine].image
        assert image is not None, "models.yaml was checked for this when it was read"
        return image

    def _remedy(self, spec: ModelSpec, image: str) -> tuple[str, list[str]]:
        if BY_ID.fullmatch(image):
            return "load it with", ["docker load --input FILE"]
        if BY_DIGEST.fullmatch(image):
            body = json.dumps({"model_id": spec.id})
            return "fetch it with", [f"docker pull {image}", f"curl -X POST {self._api_url}/pull -d '{body}'"]
        if self.builds(spec):
            return "build it with", [f"python3 -m scripts.setup engine-image {spec.engine}"]
        return "build it, or fetch it with", [f"docker pull {image}"]
