"""The WSGI application for gunicorn's worker. The model starts to load before the server's modules are imported."""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING

from runner.engine import EngineError
from runner.engines import make_engine
from runner.loading import Loader
from runner.settings import read_settings

if TYPE_CHECKING:
    from flask import Flask

log = logging.getLogger("runner")


def application() -> Flask:
    """Return the app. Called after the fork; a thread of its own loads the model meanwhile."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stdout)
    try:
        settings = read_settings()
        engine = make_engine(settings)
    except EngineError as error:
        log.error("cannot serve: %s", error)
        os._exit(1)
    # Not sys.exit: a thread calls this, and the process must not continue without a model.
    loader = Loader(engine, on_failure=lambda _message: os._exit(1))
    loader.start()
    # Flask and pydantic take as long to import as the engine's library, and two imports at once wait for each other.
    # After its import, the engine spends its time outside of Python.
    loader.import_end.wait()
    from runner.api.routes import create_app

    return create_app(engine, settings, loader)
