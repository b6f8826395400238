"""How gunicorn serves the controller: one worker, because leases and lifecycle live in one process."""

import ctypes
import logging
import os
import resource
import signal
import sys
import time
from contextlib import suppress
from types import SimpleNamespace
from typing import Any, NoReturn

from gunicorn import arbiter

from controller.errors import ConfigInvalid, InstanceRuns
from controller.server import instance_lock
from controller.server.signals import controller_of
from controller.server.slow_clients import MOST_READERS, MOST_WRITERS
from controller.settings import Settings

# Threads beyond the cap on requests in flight and the caps on waits for slow clients, so that there is always one for
# /health and /status.
SPARE_THREADS = 32
# When the controller ends: for the errors of aborted requests, for starts and preparations to end, for models to stop.
END_S = 3
SETTLE_S = 3
STOP_MODELS_S = 10
OPEN_FILES = 65536
PR_SET_PDEATHSIG = 1
# Exit codes.
BROKEN_CONFIGURATION, RUNS_ALREADY = 2, 1


def _end(problems: list[str], code: int = BROKEN_CONFIGURATION) -> NoReturn:
    """Print all that is wrong and exit with the code that stands for it."""
    print("\n".join(problems), file=sys.stderr)
    raise SystemExit(code)


try:
    _settings = Settings.from_environ(os.environ)
except ConfigInvalid as exc:
    _end(exc.problems)

bind = f"{f'[{_settings.host}]' if ':' in _settings.host else _settings.host}:{_settings.port}"
workers = 1
worker_class = "controller.server.worker.ControllerWorker"
logger_class = "controller.server.worker.ControllerLogger"
threads = _settings.max_in_flight + MOST_READERS + MOST_WRITERS + SPARE_THREADS
worker_connections = max(1000, 2 * threads)
timeout = 60
# The master's; `post_fork` sets the worker's part of it.
graceful_timeout = _settings.stop_grace_s + END_S + SETTLE_S + (STOP_MODELS_S if _settings.stop_models_on_exit else 0)
keepalive = 75
worker_tmp_dir = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
control_socket_disable = True
proc_name = "orchestrar"
loglevel = _settings.log_level
logconfig_dict = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)-7s %(name)s: %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"level": loglevel.upper(), "handlers": ["stderr"]},
    "loggers": {"gunicorn.error": {"level": loglevel.upper(), "propagate": True, "handlers": []}},
}


_lock: instance_lock.InstanceLock | None = None


def on_starting(server: Any) -> None:
    """Take the lock against a second controller and check the configuration, in the master and before all else.

    A broken configuration ends the process here, with all its errors and exit code 2.
    """
    global _lock
    try:
        _lock = instance_lock.take(_settings.project, f"http://{bind}", os.environ)
        # Imported under the lock: this takes time, and a second controller has to end at once.
        from controller.composition import check

        check(_settings)
    except ConfigInvalid as exc:
        on_exit(server)
        _end(exc.problems)
    except InstanceRuns as exc:
        _end([exc.message], RUNS_ALREADY)
    except OSError as exc:
        _end([f"the lock against a second controller could not be taken: {exc}; set XDG_STATE_HOME to your own folder"])


def when_ready(server: Any) -> None:
    """Handle the master's signals ourselves, and let it measure time by a monotonic clock.

    gunicorn answers some of these signals with a second worker, and there must be one owner of the models; HUP goes to
    the worker. The master measures the worker's last grace period by the wall clock and would kill the worker if that
    was set forward.
    """
    arbiter.time = SimpleNamespace(**{**vars(time), "time": time.monotonic})

    def reload(_number: int, _frame: Any) -> None:
        for pid in list(server.WORKERS):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGHUP)

    signal.signal(signal.SIGHUP, reload)
    for ignored in (signal.SIGTTIN, signal.SIGTTOU, signal.SIGUSR2):
        signal.signal(ignored, lambda number, _: server.log.warning("%s is ignored", signal.Signals(number).name))


def post_fork(server: Any, worker: Any) -> None:
    """Set the worker's own bounds.

    It ends before the master would kill it. Only the master holds the lock. There may be more connections than the
    usual limit of 1024 open files. A worker dies with its master: an orphan would keep the port and manage models.
    """
    if _lock is not None:
        _lock.drop()
    worker.grace_s = _settings.stop_grace_s
    worker.cfg.set("graceful_timeout", _settings.stop_grace_s + END_S)
    soft_limit, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    open_files = OPEN_FILES if hard_limit == resource.RLIM_INFINITY else min(OPEN_FILES, hard_limit)
    if soft_limit != resource.RLIM_INFINITY and soft_limit < open_files:
        resource.setrlimit(resource.RLIMIT_NOFILE, (open_files, hard_limit))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != worker.ppid:  # the master died before the line above
            raise SystemExit(1)


def on_exit(server: Any) -> None:
    """Release the lock when the master ends, after its worker."""
    if _lock is not None:
        _lock.release()


def worker_exit(server: Any, worker: Any) -> None:
    """Close the controller. Running models stay up and are adopted at the next start.

    They are stopped only if a setting asks for it, and only when the controller ends, not just this worker.
    """
    app = getattr(worker, "wsgi", None)
    if app is None:
        return
    controller = controller_of(app)
    controller.close()
    if worker.must_end:
        controller.supervisor.wait_for_attempts(SETTLE_S)
        if _settings.stop_models_on_exit:
            controller.supervisor.stop_all(STOP_MODELS_S)
        # Python would wait for every thread of the pool. All requests that may still wait in one were aborted.
        logging.shutdown()
        os._exit(0)
