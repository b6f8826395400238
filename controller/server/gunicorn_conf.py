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
from controller.server.client_connection import MOST_READERS, MOST_WRITERS
from controller.server.signals import controller_of
from controller.settings import Settings

# Threads beyond the cap on requests in flight and the caps on waits for slow clients, so that /health and /status
# always find one.
SPARE_THREADS = 32
# At the controller's end: for the answers that were cut, for starts and preparations to let go, for models to stop.
END_S = 3
SETTLE_S = 3
STOP_MODELS_S = 10
OPEN_FILES = 65536
PR_SET_PDEATHSIG = 1


BROKEN_CONFIGURATION, RUNS_ALREADY = 2, 1


def _end(problems: list[str], code: int = BROKEN_CONFIGURATION) -> NoReturn:
    """All that is wrong, and the exit code that tells of it."""
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
# The master's; what of it is the worker's, `post_fork` says.
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
    """In the master, before anything is touched: be the only controller, and read the configuration once.

    A broken one ends here with all its errors and exit code 2.
    """
    global _lock
    try:
        _lock = instance_lock.take(_settings.project, f"http://{bind}", os.environ)
        # Behind the lock: it takes its time, and a second controller is to end at once.
        from controller.composition import check

        check(_settings)
    except ConfigInvalid as exc:
        on_exit(server)
        _end(exc.problems)
    except InstanceRuns as exc:
        _end([exc.message], RUNS_ALREADY)
    except OSError as exc:
        _end([f"the lock against a second controller cannot be had: {exc}; set XDG_STATE_HOME to a folder of yours"])


def when_ready(server: Any) -> None:
    """gunicorn's own meaning of these would put a second owner beside the first; HUP is the worker's.

    And the master would measure the worker's last grace by the wall clock, and kill it when that is set forward.
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
    """The worker's own bounds: it ends sooner than the master would kill it.

    The lock is the master's alone, and the usual limit of 1024 open files is fewer than there may be connections.

    A master that is killed takes its worker with it: an orphan would hold the port and mind models unseen.
    """
    if _lock is not None:
        _lock.drop()
    worker.grace_s = _settings.stop_grace_s
    worker.cfg.set("graceful_timeout", _settings.stop_grace_s + END_S)
    now_files, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted_files = OPEN_FILES if most_files == resource.RLIM_INFINITY else min(OPEN_FILES, most_files)
    if now_files != resource.RLIM_INFINITY and now_files < wanted_files:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted_files, most_files))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != worker.ppid:  # it died before it was listened for
            raise SystemExit(1)


def on_exit(server: Any) -> None:
    """The master's end, once its worker has ended."""
    if _lock is not None:
        _lock.release()


def worker_exit(server: Any, worker: Any) -> None:
    """End the supervisor's threads; running models stay up and are adopted at the next start, unless a setting says
    otherwise and it is the controller that ends, not this worker of it alone."""
    app = getattr(worker, "wsgi", None)
    if app is None:
        return
    controller = controller_of(app)
    controller.close()
    if worker.is_told_to_end:
        controller.supervisor.wait_for_attempts(SETTLE_S)
        if _settings.stop_models_on_exit:
            controller.supervisor.stop_all(STOP_MODELS_S)
        # Python would wait for every thread of the pool; all that may still wait in one was told that it is over.
        logging.shutdown()
        os._exit(0)
