"""What to do when a request met a model that seems dead: find out, before anybody is sent there again."""

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

# Docker may say "running" of a container whose process has just died; under load for seconds.
BELIEVED_AFTER_S = 10.0
# Where Docker hangs, each would ask it in vain for as long as those before.
TURN_WITHIN_S = 30.0
POLL_S = 0.05


class DeadModelCheck:
    """Makes memory follow what a dead connection told. Thread-safe; blocks on Docker."""

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
        # All requests at one dead model come at once, and one of them finds out for all.
        self._turns: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    def wait_for_verdict(self, lease: Lease) -> None:
        """Return when it is known whether the lease's container serves, and the supervisor knows it, too.

        Either it answers, or Docker says that it has ended, or neither for so long that it is ended, because nobody
        listens there any more. Raises a Docker error, and DeadlineExceeded when the request that asks is out of time
        before that (`Lease.left_s`): whoever comes next finds out.
        """
        out_of_time_at = self._clock.monotonic() + lease.left_s
        with self._turn(lease):
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
        if health.refused or health.broken:
            log.warning("%s: it %s", lease.model_id, DEAF)
            self._supervisor.end(lease.model_id, lease.container_id, DEAF)
        else:
            self._supervisor.adopt(lease.model_id)

    @contextmanager
    def _turn(self, lease: Lease) -> Iterator[None]:
        turn = self._turns[lease.model_id]
        if not turn.acquire(timeout=max(0.0, min(TURN_WITHIN_S, lease.left_s))):
            if lease.left_s < TURN_WITHIN_S:
                raise _out_of_time(lease)
            raise DockerTimeout(
                f"{lease.model_id} died, and Docker did not say in time what became of it; try again soon"
            )
        try:
            yield
        finally:
            turn.release()

    def _is_believed(self, lease: Lease) -> bool:
        """Whether the supervisor would still send requests there."""
        view = self._supervisor.view(lease.model_id)
        return view.state is State.READY and view.container is not None and view.container.id == lease.container_id


def _out_of_time(lease: Lease) -> DeadlineExceeded:
    return DeadlineExceeded(
        f"{lease.model_id} died before it answered, and there was no time left to wait for another try; ask again"
    )
