"""Finds out whether a model is dead when a request's connection to it ended, before another request goes there."""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from controller.errors import DeadlineExceeded, DockerTimeout
from controller.supervisor.backend import Backend, Readiness
from controller.supervisor.clock import Clock, SystemClock
from controller.supervisor.leases import Lease
from controller.supervisor.states import State
from controller.supervisor.supervisor import Supervisor
from controller.supervisor.watching.hangs import DEAF

log = logging.getLogger(__name__)

# Docker may call a container "running" whose process has just died, under load for seconds.
BELIEVED_AFTER_S = 10.0
# If Docker hangs, each request would ask it in vain for as long as the ones before.
CHECK_WITHIN_S = 30.0
POLL_S = 0.05


class DeadModelCheck:
    """Updates the supervisor after a connection to a model ended. Thread-safe; blocks on Docker."""

    def __init__(
        self,
        supervisor: Supervisor,
        backend: Backend,
        probe: Callable[[int, str], Readiness],
        *,
        clock: Clock | None = None,
    ) -> None:
        self._supervisor = supervisor
        self._backend = backend
        self._probe = probe
        self._clock = clock or SystemClock()
        # All requests to one dead model come at once, and one of them finds out for all.
        self._check_locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    def wait_for_verdict(self, lease: Lease) -> None:
        """Return once the supervisor knows whether the lease's container still serves.

        It answers, or Docker says that it has ended, or neither happens for so long that we end it, because no server
        listens there any more. Raises a Docker error, and DeadlineExceeded if the request is out of time before that
        (`Lease.left_s`): the next request finds out.
        """
        out_of_time_at = self._clock.monotonic() + lease.left_s
        with self._one_at_a_time(lease):
            deadline = self._clock.monotonic() + BELIEVED_AFTER_S
            while self._is_believed(lease):
                container = self._backend.inspect(lease.container_id)
                if container is None or container.status != "running":
                    self._supervisor.adopt(lease.model_id)
                    return
                health = self._probe(lease.port, container.ready_path)
                if health.ready:
                    return
                if self._clock.monotonic() >= deadline:
                    self._give_up(lease, health)
                    return
                if self._clock.monotonic() >= out_of_time_at:
                    raise _out_of_time(lease)
                self._clock.sleep(POLL_S)

    def _give_up(self, lease: Lease, health: Readiness) -> None:
        if health.is_refused or health.is_broken:
            log.warning("%s: %s", lease.model_id, DEAF)
            self._supervisor.end(lease.model_id, lease.container_id, DEAF)
        else:
            self._supervisor.adopt(lease.model_id)

    @contextmanager
    def _one_at_a_time(self, lease: Lease) -> Iterator[None]:
        lock = self._check_locks[lease.model_id]
        if not lock.acquire(timeout=max(0.0, min(CHECK_WITHIN_S, lease.left_s))):
            if lease.left_s < CHECK_WITHIN_S:
                raise _out_of_time(lease)
            raise DockerTimeout(
                f"{lease.model_id} died, and Docker did not say in time whether it still runs; try again soon"
            )
        try:
            yield
        finally:
            lock.release()

    def _is_believed(self, lease: Lease) -> bool:
        """Return whether the supervisor would still send requests there."""
        view = self._supervisor.view(lease.model_id)
        return view.state is State.READY and view.container is not None and view.container.id == lease.container_id


def _out_of_time(lease: Lease) -> DeadlineExceeded:
    return DeadlineExceeded(
        f"{lease.model_id} died before it answered, and there was no time left to wait for another try; try again"
    )
