"""Finds models that do not answer, and stops their containers unless a user paused them; no request waits longer."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from controller.docker.container import Container
from controller.errors import OrchestrarError, UpstreamError, UpstreamTimeout
from controller.supervisor.backend import Backend, Readiness
from controller.supervisor.clock import Clock, SystemClock
from controller.supervisor.states import State
from controller.supervisor.supervisor import Supervisor
from controller.supervisor.view import ModelView
from controller.system.background import BackgroundLoop

log = logging.getLogger(__name__)

LOOK_EVERY_S = 4.0
# How long one look waits for an answer; and the pause before the next look after one that got an error at once. Three
# silent looks in a row and an idle processor: it hangs. Three looks without a listener: its server has ended inside.
SILENCE_S = 2.0
# A pause of this length costs the requests in flight nothing (`docker commit` pauses, too).
PAUSE_GRACE_S = 5.0
# A model that computes does not hang, however busy its server is; below this it is idle (a health check takes less).
WORKING_CPU_PERCENT = 10.0
HUNG = "hung: it did not answer and used no CPU, so its container was stopped"
DEAF = "did not listen on its port any more although its container ran, so the container was stopped"


class HangWatch:
    """Asks each ready model for its health every 4 s, and so finds a hung one within 15 s.

    `probe` waits SILENCE_S for an answer. `cut` breaks off all requests at a container with an error.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        backend: Backend,
        probe: Callable[[int, str], Readiness],
        cut: Callable[[str, UpstreamError], None],
        *,
        clock: Clock | None = None,
    ) -> None:
        self._supervisor = supervisor
        self._backend = backend
        self._probe = probe
        self._cut = cut
        self._clock = clock or SystemClock()
        self._closed = threading.Event()
        self._loop = BackgroundLoop("hang watch", self.look, lambda: not self._closed.wait(LOOK_EVERY_S))
        self._suspects: set[str] = set()
        self._paused_since: dict[str, float] = {}

    def start(self) -> None:
        """Start the thread, which runs until `close`."""
        self._loop.start()

    def close(self) -> None:
        """End the thread."""
        self._closed.set()

    def look(self) -> None:
        """Look at all models at once. A silent one is examined in a thread of its own, so that it delays no other."""
        views = self._supervisor.snapshot()
        paused_ids = {view.container.id for view in views if view.state is State.PAUSED and view.container is not None}
        self._paused_since = {key: since for key, since in self._paused_since.items() if key in paused_ids}
        targets: list[tuple[str, Container]] = []
        for view in views:
            container = view.container
            if container is None or container.id in self._suspects:
                continue
            if view.state is State.PAUSED:
                self._cut_if_paused_long(view, container)
            elif _has_work(view):
                targets.append((view.spec.id, container))
        with ThreadPoolExecutor(len(targets) or 1, thread_name_prefix="health") as pool:
            answers = pool.map(self._answer, [container for _, container in targets])
            silent = [one for one, answer in zip(targets, answers, strict=True) if not answer.is_answer]
        for model_id, container in silent:
            self._suspects.add(container.id)
            name = f"examine {model_id}"
            threading.Thread(target=self._examine, args=(model_id, container), name=name, daemon=True).start()

    def _answer(self, container: Container) -> Readiness:
        if container.port is None:
            return Readiness(ready=False)
        return self._probe(container.port, container.ready_path)

    def _cut_if_paused_long(self, view: ModelView, container: Container) -> None:
        now = self._clock.monotonic()
        since = self._paused_since.setdefault(container.id, now)
        if now - since >= PAUSE_GRACE_S and view.in_flight:
            self._cut(container.id, _paused(container))

    def _examine(self, model_id: str, container: Container) -> None:
        """Examine a model that did not answer once; the body of a thread."""
        try:
            self.examine(model_id, container)
        except OrchestrarError as exc:
            log.warning("%s does not answer, and Docker did not help: %s", model_id, exc.message)
        except Exception:  # the thread's outermost code
            log.exception("%s: the hang watch met a fault of the controller", model_id)
        finally:
            self._suspects.discard(container.id)

    def examine(self, model_id: str, container: Container) -> None:
        """Find out whether a model that does not answer ever will, and stop its container if not.

        Raises a Docker error if Docker cannot be asked.
        """
        reason = self._reason_to_end(container)
        if not reason:
            return
        now = self._backend.inspect(container.id)
        if now is not None and now.status == "paused":
            self._cut(container.id, _paused(now))
        elif now is not None and now.running and now.is_same_run(container):
            log.warning("%s: %s", model_id, reason)
            self._cut(container.id, UpstreamTimeout(f"{model_id} {reason}; try again"))
            self._supervisor.end(model_id, container.id, reason)
            return
        self._supervisor.adopt(model_id)

    def _reason_to_end(self, container: Container) -> str:
        """Return what is wrong with it after two more looks; empty if it answers, or computes."""
        first = self._answer(container)
        if first.is_answer or (first.is_silent and self._works(container)):
            return ""
        if not first.is_silent:
            self._clock.sleep(SILENCE_S)
        last = self._answer(container)
        if last.is_answer or last.is_silent != first.is_silent:
            return ""
        return HUNG if last.is_silent else DEAF

    def _works(self, container: Container) -> bool:
        usage = self._backend.usage([container.id]).get(container.id)
        return usage is not None and usage.cpu_percent >= WORKING_CPU_PERCENT


def _has_work(view: ModelView) -> bool:
    """Return whether requests go there, or are still in flight: a model that makes room for another ends them first."""
    return view.state is State.READY or (view.state is State.DRAINING and view.in_flight > 0)


def _paused(container: Container) -> UpstreamTimeout:
    return UpstreamTimeout(
        f"{container.model_id} was paused by hand while it answered; `docker unpause {container.name}` lets it go on, "
        "then try again"
    )
