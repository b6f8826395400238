"""One inference request's way: lease, forward, replay once, stream back, release."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from controller.errors import (
    Cancelled,
    ModelDied,
    Overloaded,
    ShutDown,
    UpstreamAnswered,
    UpstreamError,
    UpstreamInvalid,
)
from controller.proxy.in_flight import InFlightRequest
from controller.proxy.model_errors import error_of
from controller.proxy.runner_client import RunnerClient, RunnerResponse
from controller.supervisor import CancelToken, Lease, Supervisor

log = logging.getLogger(__name__)

# For what ends or changes models, beyond all others: of the threads that gunicorn has to spare.
KEPT_PLACES = 8


@dataclass(frozen=True, kw_only=True)
class Waited:
    """How long a request waited for its model: to start, and for its turn."""

    start_s: float
    queue_s: float


class Pieces(Protocol):
    """Where a streamed answer comes from."""

    def read_piece(self) -> bytes: ...

    def close(self) -> None: ...


class Answer(Pieces, Protocol):
    """A model's answer under way: an `Exchange`, or one put into other words on the way."""

    @property
    def status(self) -> int: ...

    @property
    def content_type(self) -> str: ...

    @property
    def waited(self) -> Waited: ...

    def read_object(self) -> dict[str, Any]: ...

    def read_whole(self) -> bytes: ...


class ModelProxy:
    """Sends requests to models, at most `max_in_flight` at once. Thread-safe.

    `wait_for_verdict` is called when a model's connection ended before its answer: it returns when the supervisor knows
    whether that model still serves.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        proxy: RunnerClient,
        wait_for_verdict: Callable[[Lease], None],
        *,
        max_in_flight: int,
    ) -> None:
        self._supervisor = supervisor
        self._proxy = proxy
        self._wait_for_verdict = wait_for_verdict
        self._places = threading.BoundedSemaphore(max_in_flight)
        self._kept_places = threading.BoundedSemaphore(KEPT_PLACES)
        self._sent: set[InFlightRequest] = set()
        self._is_over = False
        self._max_in_flight = max_in_flight

    def open(
        self,
        model_id: str,
        path: str,
        body: bytes,
        *,
        request_id: str,
        token: CancelToken,
        left_s: float | None = None,
        keep_alive_s: float | None,
    ) -> ModelAnswer:
        """The model's answer, begun; the caller closes it. Starts the model where needed, and waits for it `left_s` at
        most (default: its `max_wait`).

        A model that dies before its answer begins is started once more and asked again, within what is left of
        that; after that, and for whatever else goes wrong, the error is raised and nothing is held.
        """
        self._take_place()
        try:
            return self._open(model_id, path, body, request_id, token, left_s, keep_alive_s)
        except BaseException:
            self._places.release()
            raise

    def cut_all(self) -> None:
        """Break off every answer under way, each with an error that says why: the grace of a shutdown is over.

        For good: what has its turn already, and is only about to be sent, is not sent any more.
        """
        self._is_over = True
        for sent in list(self._sent):
            sent.cut(_shut_down())

    def cut(self, container_id: str, cause: UpstreamError) -> None:
        """Break off every request at a container that will not answer it: `cause` is what its client gets."""
        for sent in list(self._sent):
            if sent.container_id == container_id:
                sent.cut(cause)

    def _ended(self, sent: InFlightRequest) -> None:
        self._sent.discard(sent)
        self._places.release()

    @contextmanager
    def place(self) -> Iterator[None]:
        """One of the places for requests that may block; raises Overloaded at once when all are taken.

        There are more threads than places, so that `/health` always finds one.
        """
        self._take_place()
        try:
            yield
        finally:
            self._places.release()

    @contextmanager
    def kept_place(self) -> Iterator[None]:
        """The same for what an operator asks, of which there are a few more: the requests that hold all others may be
        the very ones to be ended."""
        taken = next((places for places in (self._places, self._kept_places) if places.acquire(blocking=False)), None)
        if taken is None:
            raise self._overloaded()
        try:
            yield
        finally:
            taken.release()

    def _take_place(self) -> None:
        if not self._places.acquire(blocking=False):
            raise self._overloaded()

    def _overloaded(self) -> Overloaded:
        return Overloaded(f"{self._max_in_flight} requests are in flight, which is the limit; try again soon")

    def _open(
        self,
        model_id: str,
        path: str,
        body: bytes,
        request_id: str,
        token: CancelToken,
        left_s: float | None,
        keep_alive_s: float | None,
    ) -> ModelAnswer:
        headers = {"X-Request-Id": request_id}
        start_s = queue_s = 0.0
        for last_try in (False, True):
            lease = self._supervisor.acquire(model_id, max_wait_s=left_s, token=token)
            start_s, queue_s = start_s + lease.start_s, queue_s + lease.queue_s
            sent = InFlightRequest(lease.container_id, token.on_cancel)
            self._sent.add(sent)
            try:
                # Whoever comes too late for the list of those to be cut sees this.
                if self._is_over:
                    raise _shut_down()
                upstream = self._proxy.post(lease.port, path, body, headers, sent.on_abort)
                # Some servers send a head long before they have anything to say, and the client has nothing yet.
                upstream.await_body()
            except BaseException as exc:
                self._sent.discard(sent)
                lease.release(keep_alive_s=keep_alive_s)
                if not isinstance(exc, ModelDied):
                    raise
                if token.cancelled:
                    raise Cancelled("the client has left") from exc
                sent.raise_if_cut(exc)
                met_at = time.monotonic()
                self._wait_for_verdict(lease)
                if last_try:
                    raise
                # Finding out what became of the model is a part of the wait for it.
                left_s = lease.left_s - (time.monotonic() - met_at)
                log.warning("%s died before it answered, asking again", model_id)
            else:
                waited = Waited(start_s=start_s, queue_s=queue_s)
                return ModelAnswer(upstream, lease, keep_alive_s, waited, sent, self._ended)
        raise AssertionError("unreachable: the last try returns or raises")


def _shut_down() -> ShutDown:
    return ShutDown("the controller is shutting down and had to cut this answer; ask again")


class ModelAnswer:
    """An answer under way, with what must be given back at its end. `close` is idempotent; not thread-safe."""

    def __init__(
        self,
        upstream: RunnerResponse,
        lease: Lease,
        keep_alive_s: float | None,
        waited: Waited,
        sent: InFlightRequest,
        on_close: Callable[[InFlightRequest], None],
    ) -> None:
        self.waited = waited
        self.status = upstream.status
        self.content_type = upstream.content_type
        self._upstream = upstream
        self._lease = lease
        self._keep_alive_s = keep_alive_s
        self._sent = sent
        self._on_close: Callable[[InFlightRequest], None] | None = on_close

    def read_piece(self) -> bytes:
        """The next piece of the body as it arrived; empty at its proper end, UpstreamError at any other."""
        try:
            return self._upstream.read_piece()
        except ModelDied as exc:
            self._sent.raise_if_cut(exc)
            raise

    @property
    def is_over(self) -> bool:
        """Whether no more will come; `read_piece` tells what the end was. See `pump.Source`."""
        return self._upstream.is_over

    def fileno(self) -> int:
        """What to wait for."""
        return self._upstream.fileno()

    def feed(self, received: bytes) -> bytes:
        """The body's bytes in what somebody else received."""
        return self._upstream.feed(received)

    def broke(self, cause: Exception) -> None:
        """Take note that the connection failed while somebody else read it."""
        self._upstream.broke(cause)

    def read_whole(self) -> bytes:
        """The whole body of a good answer as it came, known by its ends alone to be an object: taking thousands of
        numbers apart would hold up every other request. Raises like `read_object`."""
        if self.status != 200:
            self.read_object()
        found = self._read_all().strip()
        if not (found.startswith(b"{") and found.endswith(b"}")):
            raise UpstreamInvalid("the model's answer is no JSON object")
        return found

    def read_object(self) -> dict[str, Any]:
        """The whole body as a JSON object. Raises UpstreamAnswered for an error of the model's own, UpstreamInvalid
        for what is neither."""
        try:
            found = json.loads(self._read_all())
        except (ValueError, RecursionError) as exc:
            raise UpstreamInvalid("the model's answer is no JSON") from exc
        error = error_of(found) if isinstance(found, dict) and self.status != 200 else None
        if not isinstance(found, dict) or (self.status != 200 and error is None):
            raise UpstreamInvalid(f"the model answered {self.status} with a body of no known shape")
        if error is not None:
            raise UpstreamAnswered(self.status, {"error": error})
        return found

    def _read_all(self) -> bytes:
        try:
            return self._upstream.read_all()
        except ModelDied as exc:
            self._sent.raise_if_cut(exc)
            raise

    def close(self) -> None:
        """Give back the connection, the lease and the place."""
        on_close, self._on_close = self._on_close, None
        if on_close is None:
            return
        self._upstream.close()
        self._lease.release(keep_alive_s=self._keep_alive_s)
        on_close(self._sent)
