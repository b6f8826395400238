"""Pulling an image: a long Docker call that reports its progress and can be cancelled at any moment."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeAlias

from python_on_whales.exceptions import DockerException

from controller.docker.calls import last_line, translate
from controller.errors import Cancelled, DockerError, OrchestrarError, SourceError
from controller.system.commands import follow

OnLayers: TypeAlias = Callable[[int, int], None]

LAST_LINES = 20
_LAYER = re.compile(r"([0-9a-f]{12}): (.+)")
_COMPLETE = ("Pull complete", "Already exists")


def pull(docker: Sequence[str], reference: str, on_layers: OnLayers, cancelled: Callable[[], bool]) -> None:
    """Run `docker image pull` to its end.

    Raises SourceError if the registry or the network refuses it, Cancelled, or a Docker error. python-on-whales streams
    a pull too, but offers no way to cancel it while Docker is silent.
    """
    command = [*map(str, docker), "image", "pull", reference]
    layers: dict[str, bool] = {}
    last_lines: deque[str] = deque(maxlen=LAST_LINES)

    def note(line: str) -> None:
        last_lines.append(line)
        if match := _LAYER.fullmatch(line.strip()):
            layers[match[1]] = match[2] in _COMPLETE
            on_layers(sum(layers.values()), len(layers))

    try:
        # Its first word is `timeout`, which forwards the end to docker, whose engine then ends the download.
        code = follow(command, on_line=note, cancelled=cancelled)
    except OSError as exc:
        raise DockerError(f"fetching the image {reference}: {exc}") from exc
    if code is None:
        raise Cancelled(f"fetching the image {reference} was cancelled")
    if code != 0:
        raise _failure(command, code, reference, last_lines)


def _failure(command: list[str], code: int, reference: str, last_lines: deque[str]) -> OrchestrarError:
    text = "".join(last_lines)
    if "response from daemon" not in text:
        return translate(DockerException(command, code, None, text.encode()), f"fetching the image {reference}")
    words = last_line(text).removeprefix("Error response from daemon: ")
    return SourceError(
        f"the image {reference} could not be fetched: {words}. Check its name and digest, and that Docker can reach "
        f"its registry: `docker pull {reference}` shows the same error."
    )
