"""A runner with the fake engine for gunicorn: each word waits for a byte from the file descriptor in FAKE_GATE_FD."""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Iterator
from pathlib import Path

from flask import Flask

from runner.api.routes import create_app
from runner.engine import EncodedRequest, Piece
from runner.loading import Loader
from runner.settings import RunnerSettings
from tests.runner.fake_engine import FakeEngine


class PipeGate:
    """A gate whose permits are bytes in a pipe."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def acquire(self, *, timeout: float) -> bool:
        return bool(select.select([self._fd], [], [], timeout)[0]) and bool(os.read(self._fd, 1))


class Breakable(FakeEngine):
    """Fails for good at the prompt `break`."""

    def generate(self, request: EncodedRequest, is_cancelled: Callable[[], bool]) -> Iterator[Piece]:
        if request.prompt_tokens == tuple(b"break"):
            self.failure_reason = "out of pages"
            raise RuntimeError(self.failure_reason)
        return super().generate(request, is_cancelled)


def application() -> Flask:
    engine = Breakable(gate=PipeGate(int(os.environ["FAKE_GATE_FD"])))
    loader = Loader(engine, on_failure=lambda _message: os._exit(1))
    loader.start()
    return create_app(engine, RunnerSettings(model_id="fake", model_path=Path("/nowhere")), loader, silence_s=0.5)
