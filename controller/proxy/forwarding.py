"""The proxy to all models: lease, forward, try once more if the model dies first, stream back, release."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
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
from controller.proxy.model_errors import error_of
from controller.proxy.runner_client import RunnerClient
from controller.proxy.runner_response import InFlightRequest, RunnerResponse
from controller.proxy.stream_pump import Source
from controller.supervisor import CancelToken, Lease, Supervisor

log = logging.getLogger(__name__)

# For what stops or changes models, beyond all others: of the threads that gunicorn has to spare.
RESERVED_PLACES = 8


@dataclass(frozen=True, kw_only=True)
class RunnerRequest:
    """What a model's server is sent, and how long the model may be waited for (None: its `max_wait`).

    `message` returns path and body for the server of an engine (empty: of an engine that its container does not name):
    with `engine: auto` only the files decide which it is, and they may come while the request waits.
    """

    model_id: str
    message: Callable[[str], tuple[str, bytes]]
    request_id: str
    max_wait_s: float | None = None
    keep_alive_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class WaitTimes:
    """How long a request waited for its model: to start, and for its turn."""

    start_s: float
    queue_s: float

    @property
    def total_s(self) -> float:
        """Both together."""
        return self.start_s + self.queue_s


class Pieces(Protocol):
    """A streamed answer. `source` is what the pump may wait for instead of asking; None if it has to be asked."""

    @property
    def source(self) -> Source | None: ...

    def read_piece(self) -> bytes: ...

    def close(self) -> None: ...


class Answer(Pieces, Protocol):
    """A model's answer in flight: a `ModelAnswer`, or one that translates another."""

    @property
    def model_id(self) -> str: ...

    @property
    def status(self) -> int: ...

    @property
    def content_type(self) -> str: ...

    @property
    def wait_times(self) -> WaitTimes: ...

    def read_object(self) -> dict[str, Any]: ...

    def read_whole(self) -> bytes: ...


class ModelProxy:
    """Forwards requests to models, at most `max_in_flight` at once. Thread-safe.

    `wait_for_verdict` is called when a model's connection ended before its answer: it returns when the supervisor knows
    whether that model still serves.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        client: RunnerClient,
        wait_for_verdict: Callable[[Lease], None],
        *,
        max_in_flight: int,
    ) -> None:
        self._supervisor = supervisor
        self._client = client
        self._wait_for_verdict = wait_for_verdict
        self._places = threading.BoundedSemaphore(max_in_flight)
        self._reserved_places = threading.BoundedSemaphore(RESERVED_PLACES)
        self._in_flight: set[InFlightRequest] = set()
        self._is_shut_down = False
        self._max_in_flight = max_in_flight

    def open(self, request: RunnerRequest, token: CancelToken) -> ModelAnswer:
        """Return the model's answer once it has begun; the caller closes it. Starts the model if needed.

        If the model dies before its answer begins, it is started and asked once more, within what is left of
        `max_wait_s`; after that, and for any other failure, the error is raised and nothing stays taken.
        """
        self._take_place()
        try:
            return self._open(request, token)
        except BaseException:
            self._places.release()
            raise

    def abort_all(self) -> None:
        """Abort every answer in flight with an error that says why: the grace of a shutdown is over.

        For good: a request that has its lease already, and is about to be sent, is not sent any more.
        """
        self._is_shut_down = True
        for request in list(self._in_flight):
            request.abort(_shut_down())

    def abort(self, container_id: str, cause: UpstreamError) -> None:
        """Abort every request at a container that will not answer it: `cause` is what its client gets."""
        for request in list(self._in_flight):
            if request.container_id == container_id:
                request.abort(cause)

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold one of the places for requests that may block; raise Overloaded at once if all are taken.

        There are more threads than places, so that `/health` always finds one.
        """
        self._take_place()
        try:
            yield
        finally:
            self._places.release()

    @contextmanager
    def reserved_place(self) -> Iterator[None]:
        """Hold a place as `place` does, for an operator's request, for which there are a few more: the requests that
        hold all others may be the very ones to stop."""
        both = (self._places, self._reserved_places)
        places = next((places for places in both if places.acquire(blocking=False)), None)
        if places is None:
            raise self._overloaded()
        try:
            yield
        finally:
            places.release()

    def _take_place(self) -> None:
        if not self._places.acquire(blocking=False):
            raise self._overloaded()

    def _overloaded(self) -> Overloaded:
        return Overloaded(f"{self._max_in_flight} requests are in flight, which is the limit; try again soon")

    def _open(self, request: RunnerRequest, token: CancelToken) -> ModelAnswer:
        headers = {"X-Request-Id": request.request_id}
        max_wait_s, start_s, queue_s = request.max_wait_s, 0.0, 0.0
        for last_try in (False, True):
            lease = self._supervisor.acquire(request.model_id, max_wait_s=max_wait_s, token=token)
            start_s, queue_s = start_s + lease.start_s, queue_s + lease.queue_s
            in_flight = InFlightRequest(lease.container_id)
            self._in_flight.add(in_flight)
            try:
                token.on_cancel(in_flight.abort)
                # A request that comes too late for the list of those to abort sees this.
                if self._is_shut_down:
                    raise _shut_down()
                path, body = request.message(lease.engine)
                response = self._client.post(lease.port, path, body, headers, in_flight)
                # Some servers send a head long before they have anything to say, and the client has nothing yet.
                response.await_body()
            except BaseException as exc:
                self._in_flight.discard(in_flight)
                lease.release(keep_alive_s=request.keep_alive_s)
                if not isinstance(exc, ModelDied):
                    raise
                if token.cancelled:
                    raise Cancelled("the client has left") from exc
                in_flight.raise_cause(exc)
                died_at = time.monotonic()
                self._wait_for_verdict(lease)
                if last_try:
                    raise
                # Finding out what became of the model is a part of the wait for it.
                max_wait_s = lease.left_s - (time.monotonic() - died_at)
                log.warning("%s died before it answered, asking again", request.model_id)
            else:
                wait_times = WaitTimes(start_s=start_s, queue_s=queue_s)
                give_back = partial(self._give_back, request, lease, in_flight)
                return ModelAnswer(request.model_id, response, wait_times, in_flight, give_back)
        raise AssertionError("unreachable: the last try returns or raises")

    def _give_back(self, request: RunnerRequest, lease: Lease, in_flight: InFlightRequest) -> None:
        lease.release(keep_alive_s=request.keep_alive_s)
        self._in_flight.discard(in_flight)
        self._places.release()


def _shut_down() -> ShutDown:
    return ShutDown("the controller is shutting down and had to cut this answer; ask again")


class ModelAnswer:
    """An answer in flight, with what must be given back at its end. `close` is idempotent; not thread-safe."""

    def __init__(
        self,
        model_id: str,
        response: RunnerResponse,
        wait_times: WaitTimes,
        in_flight: InFlightRequest,
        give_back: Callable[[], None],
    ) -> None:
        self.model_id = model_id
        self.status = response.status
        self.content_type = response.content_type
        self.wait_times = wait_times
        # Once the source is over, `read_piece` tells what the end was.
        self.source: Source | None = response
        self._response = response
        self._in_flight = in_flight
        self._give_back: Callable[[], None] | None = give_back

    def read_piece(self) -> bytes:
        """Return the next piece of the body unchanged, empty at its proper end; raise UpstreamError at any other."""
        try:
            return self._response.read_piece()
        except ModelDied as exc:
            self._in_flight.raise_cause(exc)
            raise

    def read_whole(self) -> bytes:
        """Return the whole body of a good answer unchanged; only its ends are checked for those of an object.

        Parsing thousands of numbers would hold up every other request. Raises like `read_object`.
        """
        if self.status != 200:
            self.read_object()
        body = self._read_all().strip()
        if not (body.startswith(b"{") and body.endswith(b"}")):
            raise UpstreamInvalid("the model's answer is no JSON object")
        return body

    def read_object(self) -> dict[str, Any]:
        """Return the whole body as a JSON object. Raises UpstreamAnswered for an error of the model's own,
        UpstreamInvalid for what is neither."""
        try:
            value = json.loads(self._read_all())
        except (ValueError, RecursionError) as exc:
            raise UpstreamInvalid("the model's answer is no JSON") from exc
        error = error_of(value) if isinstance(value, dict) and self.status != 200 else None
        if not isinstance(value, dict) or (self.status != 200 and error is None):
            raise UpstreamInvalid(f"the model answered {self.status} with a body of no known shape")
        if error is not None:
            raise UpstreamAnswered(self.status, {"error": error})
        return value

    def _read_all(self) -> bytes:
        try:
            return self._response.read_all()
        except ModelDied as exc:
            self._in_flight.raise_cause(exc)
            raise

    def close(self) -> None:
        """Give back the connection, the lease and the place."""
        give_back, self._give_back = self._give_back, None
        if give_back is not None:
            self._response.close()
            give_back()
