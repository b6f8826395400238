"""A runner around the fake engine for gunicorn: each word waits for a byte on the file descriptor in FAKE_GATE_FD."""

from __future__ import annotations

import os
import select
from pathlib import Path

from flask import Flask

from runner.loading import Loader
from runner.server import create_app
from runner.settings import RunnerSettings
from tests.runner.fake_engine import FakeEngine


class PipeGate:
    def __init__(self, fd: int) -> None:
        self._fd = fd

    def acquire(self, *, timeout: float) -> bool:
        return bool(select.select([self._fd], [], [], timeout)[0]) and bool(os.read(self._fd, 1))


def application() -> Flask:
    engine = FakeEngine(gate=PipeGate(int(os.environ["FAKE_GATE_FD"])))
    loader = Loader(engine, on_failure=lambda _message: os._exit(1))
    loader.start()
    return create_app(engine, RunnerSettings(model_id="fake", model_path=Path("/nowhere")), loader, silence_s=0.5)
