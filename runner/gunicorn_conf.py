"""gunicorn's settings: one worker that owns the model, threads for the requests in flight.

The import needs only the standard library, and the master never loads the model.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

EXIT_NOT_PREPARED = 78

bind = os.environ.get("ORCHESTRAR_BIND") or "0.0.0.0:8000"
workers = 1
worker_class = "gthread"
# More than the controller admits, so that /health finds a free thread however busy the model is.
threads = int(float(os.environ.get("ORCHESTRAR_MAX_CONCURRENCY") or 8)) + 16
worker_tmp_dir = "/dev/shm"
control_socket_disable = True
accesslog = None
errorlog = "-"
loglevel = "warning"
# The model loads in a thread, and a long computation is no reason to kill the worker: the controller checks health.
timeout = 0
# Docker's stop grace period decides; this only must not be shorter.
graceful_timeout = 300
keepalive = 75


def on_starting(_server: Any) -> None:
    """End the process with one sentence if there is no model to serve."""
    model_path = Path(os.environ.get("ORCHESTRAR_MODEL_PATH") or "/model")
    if not (model_path / "config.json").is_file():
        model_id = os.environ.get("ORCHESTRAR_MODEL_ID") or "model"
        print(
            f"{model_id} is not prepared: {model_path} has no config.json; start the model through Orchestrar, "
            "or run its prepare service first.",
            file=sys.stderr,
            flush=True,
        )
        sys.exit(EXIT_NOT_PREPARED)


def child_exit(server: Any, _worker: Any) -> None:
    """End the container if the worker dies: the controller decides what follows, not a silent second load."""
    from gunicorn.errors import HaltServer

    # gunicorn empties this list when it stops; then the worker's end is intended.
    if server.LISTENERS:
        raise HaltServer("the worker died", 1)
