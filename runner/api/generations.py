"""Requests that generate text, on any route: each takes a place and a job, and its answer is whole or streamed."""

from __future__ import annotations

import json
import logging
import socket
import threading
from typing import Any, Protocol

from flask import Request, Response, g, request

from runner.api.client_socket import writer_of
from runner.api.constraints import add_grammar
from runner.api.disconnects import DisconnectWatcher
from runner.api.errors import RequestRefused, ServerError, Unavailable
from runner.api.event_stream import EventStream, Format
from runner.api.metrics import Metrics
from runner.engine import Engine, EngineError, GenerationRequest, Lifecycle, PromptInvalid
from runner.engines.job import GenerationFailed, Job
from runner.loading import Loader
from runner.settings import RunnerSettings

log = logging.getLogger("runner")

# The controller admits `max_concurrency`; a client that has just left may hold its place here a moment longer.
SPARE_PLACES = 4


class Body(Protocol):
    """A checked request of any route that generates text."""

    @property
    def stream(self) -> bool | None: ...

    def to_request(self) -> GenerationRequest: ...


class Generations:
    """Answers requests with the one engine."""

    def __init__(self, engine: Engine, settings: RunnerSettings, loader: Loader, silence_s: float) -> None:
        self._engine = engine
        self._loader = loader
        self._silence_s = silence_s
        self.metrics = Metrics(engine)
        self._watcher = DisconnectWatcher()
        self._places = threading.BoundedSemaphore(settings.max_concurrency + SPARE_PLACES)

    def answer(self, body: Body, answer_format: Format) -> Response:
        """Return the generation that the current request asks for; raises RunnerError if it cannot start."""
        check_readiness(self._engine, self._loader)
        assert self._loader.capabilities is not None
        generation = add_grammar(body.to_request(), self._loader.capabilities)
        try:
            job = Job(self._engine.encode(generation))
        except PromptInvalid as error:
            param = "messages" if generation.messages and error.param == "prompt" else error.param
            raise RequestRefused(str(error), code=error.code, param=param) from None
        if not self._places.acquire(blocking=False):
            raise overloaded()
        return self._run(job, answer_format, is_streamed=bool(body.stream))

    def _run(self, job: Job, answer_format: Format, *, is_streamed: bool) -> Response:
        request_id: str = g.request_id
        self.metrics.note_start()
        watch = self._watcher.watch(client_socket(request), job.cancel)

        def close() -> None:
            watch.end()
            job.cancel()
            self._places.release()
            self.metrics.note_end(job)
            _log_job(job, request_id)
            if (reason := self._engine.failure()) is not None:
                self._loader.fail_after_last_words(reason)

        stream = EventStream(
            job,
            answer_format,
            request_id=request_id,
            on_close=close,
            silence_s=self._silence_s,
            socket_writer=writer_of(request.environ),
        )
        try:
            self._engine.submit(job.request, job)
        except EngineError as error:
            job.fail(error)
        if is_streamed:
            return Response(stream, mimetype="text/event-stream", headers={"Cache-Control": "no-store"})
        try:
            return json_response(answer_format.whole(job, _whole_text(job)))
        finally:
            stream.close()


def check_readiness(engine: Lifecycle, loader: Loader) -> None:
    """Raise Unavailable while the engine loads, and once it has failed, which also ends the process soon."""
    if not loader.is_ready():
        message = f"The model is not ready yet (it is {loader.phase}); retry."
        raise Unavailable(message, code="model_loading", retry_after_s=1)
    if (reason := engine.failure()) is not None:
        loader.fail_after_last_words(reason)
        message = f"The model failed and is restarting: {reason}; retry."
        raise Unavailable(message, code="engine_failed", retry_after_s=1)


def overloaded() -> Unavailable:
    """Return the error for a request beyond the places."""
    return Unavailable("The model has as many requests as it can take; retry.", code="overloaded", retry_after_s=1)


def client_socket(current: Request) -> socket.socket | None:
    """Return the client's socket, if the server exposes it."""
    client = current.environ.get("gunicorn.socket")
    return client if isinstance(client, socket.socket) else None


def json_response(value: dict[str, Any], status: int = 200) -> Response:
    """Return a JSON answer in UTF-8."""
    return Response(json.dumps(value, ensure_ascii=False), status=status, mimetype="application/json")


def _whole_text(job: Job) -> str:
    try:
        text = job.whole_text()
    except GenerationFailed as error:
        raise ServerError(str(error), code="generation_failed") from None
    if job.finish_reason == "cancelled":
        # The client has left, or this process is stopping; a client rarely reads this.
        raise Unavailable("The generation was cancelled.", code="cancelled")
    return text


def _log_job(job: Job, request_id: str) -> None:
    waited_s = job.elapsed_s() if job.queue_s is None else job.queue_s
    log.info(
        "inference request_id=%s finish=%s prompt_tokens=%d completion_tokens=%d queue_s=%.3f ttft_s=%s total_s=%.3f",
        request_id,
        job.outcome(),
        len(job.request.prompt_tokens),
        job.completion_tokens,
        waited_s,
        None if job.ttft_s is None else round(job.ttft_s, 3),
        job.elapsed_s(),
    )
