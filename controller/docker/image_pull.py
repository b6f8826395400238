"""Pulling an image: a long Docker call that reports its progress and can be cancelled at any moment."""

from __future__ import annotations

import queue
import re
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeAlias

from python_on_whales.exceptions import DockerException

from controller.docker.calls import last_line, translate
from controller.errors import Cancelled, DockerError, OrchestrarError, SourceError

OnLayers: TypeAlias = Callable[[int, int], None]

POLL_S = 0.5
LAST_LINES = 20
_LAYER = re.compile(r"([0-9a-f]{12}): (.+)")
_COMPLETE = ("Pull complete", "Already exists")


def pull(docker: Sequence[str], reference: str, on_layers: OnLayers, cancelled: Callable[[], bool]) -> None:
    """Run `docker image pull` to its end.

    Raises SourceError if the registry or the network refuses it, Cancelled, or a Docker error. python-on-whales streams
    a pull too, but offers no way to cancel it while Docker is silent.
    """
    command = [*map(str, docker), "image", "pull", reference]
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    except OSError as exc:
        raise DockerError(f"fetching the image {reference}: {exc}") from exc
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    reader = threading.Thread(target=_read, args=(process, lines), name="docker pull", daemon=True)
    reader.start()
    try:
        last_lines = _follow(lines, on_layers, cancelled, reference)
    finally:
        process.terminate()  # `timeout` forwards it to docker, whose engine then ends the download
        process.wait()
        reader.join()
    if process.returncode != 0:
        raise _failure(command, process.returncode, reference, last_lines)


def _read(process: subprocess.Popen[bytes], lines: queue.SimpleQueue[str]) -> None:
    """Put the output's lines, then an empty one; runs in a thread so that a silent Docker can be cancelled."""
    assert process.stdout is not None
    with process.stdout as pipe:
        for line in pipe:
            lines.put(line.decode(errors="replace"))
    process.wait()
    lines.put("")


def _follow(
    lines: queue.SimpleQueue[str], on_layers: OnLayers, cancelled: Callable[[], bool], reference: str
) -> deque[str]:
    """Report progress until the output ends; returns its last lines."""
    layers: dict[str, bool] = {}
    last_lines: deque[str] = deque(maxlen=LAST_LINES)
    while True:
        if cancelled():
            raise Cancelled(f"fetching the image {reference} was cancelled")
        try:
            line = lines.get(timeout=POLL_S)
        except queue.Empty:
            continue
        if not line:
            return last_lines
        last_lines.append(line)
        if match := _LAYER.fullmatch(line.strip()):
            layers[match[1]] = match[2] in _COMPLETE
            on_layers(sum(layers.values()), len(layers))


def _failure(command: list[str], code: int, reference: str, last_lines: deque[str]) -> OrchestrarError:
    text = "".join(last_lines)
    if "response from daemon" not in text:
        return translate(DockerException(command, code, None, text.encode()), f"fetching the image {reference}")
    words = last_line(text).removeprefix("Error response from daemon: ")
    return SourceError(
        f"the image {reference} could not be fetched: {words}. Check its name and digest, and that Docker can reach "
        f"its registry: `docker pull {reference}` shows the same error."
    )
