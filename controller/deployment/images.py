"""The image of a model's container: whether it is here, how to fetch it, and what to do without it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

from controller.deployment.engines import BY_DIGEST, BY_ID, Engine
from controller.docker.service import DockerService
from controller.errors import ImageMissing
from controller.registry import ModelSpec
from controller.supervisor.backend import OnProgress, PreparationProgress

PHASE = "fetching the image"


class Images:
    """The images of all models. Thread-safe; blocks on Docker."""

    def __init__(self, *, docker: DockerService, engines: Mapping[str, Engine], api_url: str) -> None:
        self._docker = docker
        self._engines = engines
        self._api_url = api_url

    def require(self, spec: ModelSpec) -> None:
        """Raise ImageMissing, with the commands that fetch it, if the model's image is not on this machine.

        No start fetches an image by itself: an image is code, so the user has to ask for it.
        """
        image = self._of(spec)
        if self._docker.image_id(image) is None:
            how, commands = self._remedy(spec, image)
            choices = " or ".join(f"`{command}`" for command in commands)
            raise ImageMissing(
                f"{spec.id}: its image {image} is not on this machine; {how} {choices}",
                details={"image": image, "commands": commands},
            )

    def fetch(self, spec: ModelSpec, *, on_progress: OnProgress, cancelled: Callable[[], bool]) -> None:
        """Fetch the model's image if its name has a digest and it is not here; others are built or loaded by hand.

        Raises SourceError, Cancelled or a Docker error.
        """
        image = self._of(spec)
        if not BY_DIGEST.fullmatch(image) or self._docker.image_id(image) is not None:
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
        if spec.image is None:
            return "build it with", ["make up"]
        return "build it, or fetch it with", [f"docker pull {image}"]
