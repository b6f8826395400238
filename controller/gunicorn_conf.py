"""How gunicorn serves the controller: one worker, because leases and lifecycle live in one process."""

import os
import sys
from typing import Any

# Threads beyond the cap on requests in flight, so that /health and /status always find one.
SPARE_THREADS = 32
MAX_IN_FLIGHT = int(os.environ.get("ORCHESTRAR_MAX_IN_FLIGHT") or 256)

bind = f"{os.environ.get('ORCHESTRAR_HOST') or '127.0.0.1'}:{os.environ.get('ORCHESTRAR_PORT') or 8000}"
workers = 1
worker_class = "gthread"
threads = MAX_IN_FLIGHT + SPARE_THREADS
timeout = 60
graceful_timeout = int(os.environ.get("ORCHESTRAR_STOP_GRACE_S") or 30)
keepalive = 75
worker_tmp_dir = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
control_socket_disable = True
proc_name = "orchestrar"
loglevel = os.environ.get("ORCHESTRAR_LOG_LEVEL") or "info"
logconfig_dict = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)-7s %(name)s: %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"level": loglevel.upper(), "handlers": ["stderr"]},
    "loggers": {"gunicorn.error": {"level": loglevel.upper(), "propagate": True, "handlers": []}},
}


def on_starting(server: Any) -> None:
    """Read the configuration once in the master: a broken one ends here with all its errors and exit code 2."""
    from controller.composition import read_registry
    from controller.errors import ConfigInvalid
    from controller.settings import Settings

    try:
        read_registry(Settings.from_environ(os.environ))
    except ConfigInvalid as exc:
        print("\n".join(exc.problems), file=sys.stderr)
        raise SystemExit(2) from None


def worker_exit(server: Any, worker: Any) -> None:
    """End the supervisor's threads; running models stay up and are adopted at the next start."""
    app = getattr(worker, "wsgi", None)
    if app is not None:
        app.extensions["orchestrar"].supervisor.close()
