"""The HTTP app around one engine: `GET /health` and `POST /inference`."""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import threading
import uuid
from typing import Any

from flask import Flask, Request, Response, g, request
from werkzeug.exceptions import HTTPException

from runner.bodies import MAX_BODY_BYTES, InferenceBody, parse_inference_body
from runner.disconnects import DisconnectWatcher
from runner.engine import Engine, EngineError, PromptInvalid
from runner.engines import make_engine
from runner.errors import BodyTooLarge, Broken, MethodNotAllowed, Refused, RouteNotFound, RunnerError, Unavailable
from runner.events import KEEP_ALIVE_AFTER_S, EventStream, summary
from runner.jobs import GenerationFailed, Job, JobQueue
from runner.loading import Loader
from runner.settings import RunnerSettings, read_settings

log = logging.getLogger("runner")

# The controller admits `max_concurrency`; a client that has just left may still hold its place here for a moment.
SPARE_PLACES = 4
# Bounds a body that never arrives and a reader that never reads; gunicorn's gthread bounds neither.
SOCKET_TIMEOUT_S = 60.0


def application() -> Flask:
    """The app for gunicorn, called in the worker after the fork: begins to load the model and returns at once."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stdout)
    # Many short waits between the generating thread and the writing ones: the default of 5 ms costs tokens per second.
    sys.setswitchinterval(0.0005)
    try:
        settings = read_settings()
        engine = make_engine(settings)
    except EngineError as error:
        log.error("cannot serve: %s", error)
        os._exit(1)
    # Not sys.exit: this is called from a thread, and the process must not go on without a model.
    loader = Loader(engine, task=settings.task, on_failure=lambda _message: os._exit(1))
    loader.start()
    return create_app(engine, settings, loader)


def create_app(
    engine: Engine, settings: RunnerSettings, loader: Loader, *, silence_s: float = KEEP_ALIVE_AFTER_S
) -> Flask:
    """The app; `loader` loads that engine, and may be at any phase of it."""
    app = Flask("runner", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
    inference = _Inference(engine, settings, loader, silence_s)
    app.add_url_rule("/health", view_func=lambda: _health(engine, settings, loader), endpoint="health")
    app.add_url_rule("/inference", view_func=inference.answer, endpoint="inference", methods=["POST"])
    app.before_request(_begin)
    app.register_error_handler(RunnerError, _envelope)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _unexpected)
    return app


def _begin() -> None:
    given = request.headers.get("X-Request-Id", "")
    g.request_id = given if given.isascii() and given.isprintable() and 0 < len(given) <= 128 else uuid.uuid4().hex
    if (client := _client(request)) is not None:
        client.settimeout(SOCKET_TIMEOUT_S)


def _client(current: Request) -> socket.socket | None:
    client = current.environ.get("gunicorn.socket")
    return client if isinstance(client, socket.socket) else None


def _health(engine: Engine, settings: RunnerSettings, loader: Loader) -> Response:
    if not loader.is_ready():
        return _json({"status": "loading", "phase": loader.phase}, 503)
    if (reason := engine.failure()) is not None:
        return _json({"status": "failed", "reason": reason}, 503)
    capabilities = loader.capabilities
    assert capabilities is not None
    return _json(
        {
            "status": "ok",
            "engine": capabilities.engine,
            "device": capabilities.device,
            "dtype": capabilities.dtype,
            "context_length": capabilities.context_length,
            "load_s": loader.load_s,
            "phases": loader.phases_s,
            "model_id": settings.model_id,
        }
    )


class _Inference:
    """`POST /inference`."""

    def __init__(self, engine: Engine, settings: RunnerSettings, loader: Loader, silence_s: float) -> None:
        self._engine = engine
        self._task = settings.task
        self._loader = loader
        self._silence_s = silence_s
        self._watcher = DisconnectWatcher()
        self._places = threading.BoundedSemaphore(settings.max_concurrency + SPARE_PLACES)

    def answer(self) -> Response:
        body = parse_inference_body(_read_body())
        jobs = self._ready_jobs()
        try:
            job = Job(self._engine.encode(body.to_request()))
        except PromptInvalid as error:
            param = "messages" if body.messages is not None and error.param == "prompt" else error.param
            raise Refused(str(error), code=error.code, param=param) from None
        if not self._places.acquire(blocking=False):
            raise Unavailable("The model has as many requests as it takes.", code="overloaded", retry_after_s=1)
        return self._run(job, jobs, body)

    def _ready_jobs(self) -> JobQueue:
        if self._loader.jobs is None:
            raise Unavailable(f"The model is {self._loader.phase}.", code="model_loading", retry_after_s=1)
        if self._task == "embedding":
            raise Refused("This model makes embeddings and generates no text.", code="task_unsupported")
        if (reason := self._engine.failure()) is not None:
            raise Unavailable(f"The model has failed and starts anew: {reason}.", code="engine_failed", retry_after_s=1)
        return self._loader.jobs

    def _run(self, job: Job, jobs: JobQueue, body: InferenceBody) -> Response:
        request_id: str = g.request_id
        watch = self._watcher.watch(_client(request), job.cancel)

        def close() -> None:
            watch.end()
            job.cancel()
            self._places.release()
            _log_job(job, request_id)

        stream = EventStream(job, request_id=request_id, on_close=close, silence_s=self._silence_s)
        jobs.submit(job)
        if body.stream:
            return Response(stream, mimetype="text/event-stream", headers={"Cache-Control": "no-store"})
        try:
            return _json(_collect(job))
        finally:
            stream.close()


def _collect(job: Job) -> dict[str, Any]:
    texts = []
    try:
        while job.finish_reason is None:
            piece = job.next_piece()
            texts.append(piece.text if piece else "")
    except GenerationFailed as error:
        raise Broken(str(error), code="generation_failed") from None
    if job.finish_reason == "cancelled":
        # The client has left, or this process is stopping; hardly anyone reads this.
        raise Unavailable("The generation was cancelled.", code="cancelled")
    return {"text": "".join(texts), **summary(job)}


def _log_job(job: Job, request_id: str) -> None:
    waited_s = job.elapsed_s() if job.queue_s is None else job.queue_s
    log.info(
        "inference request_id=%s finish=%s prompt_tokens=%d completion_tokens=%d queue_s=%.3f ttft_s=%s total_s=%.3f",
        request_id,
        job.finish_reason or "cancelled",
        len(job.request.prompt_tokens),
        job.completion_tokens,
        waited_s,
        None if job.ttft_s is None else round(job.ttft_s, 3),
        job.elapsed_s(),
    )


def _read_body() -> bytes:
    try:
        return request.get_data(cache=False)
    except OSError:
        raise Refused("The body did not arrive in time.", code="invalid_body") from None


def _json(value: dict[str, Any], status: int = 200) -> Response:
    return Response(json.dumps(value, ensure_ascii=False), status=status, mimetype="application/json")


def _envelope(error: RunnerError) -> Response:
    response = _json({"error": error.inner(g.get("request_id", ""))}, error.status)
    if error.retry_after_s is not None:
        response.headers["Retry-After"] = str(error.retry_after_s)
    return response


def _http_error(error: HTTPException) -> Response:
    if error.code == 404:
        return _envelope(RouteNotFound(f"No route {request.path}.", code="route_not_found"))
    if error.code == 405:
        response = _envelope(MethodNotAllowed(f"{request.path} takes no {request.method}.", code="method_not_allowed"))
        response.headers["Allow"] = ", ".join(sorted(getattr(error, "valid_methods", None) or ()))
        return response
    if error.code == 413:
        return _envelope(BodyTooLarge(f"The body is larger than {MAX_BODY_BYTES} bytes.", code="body_too_large"))
    if error.code is not None and error.code < 500:
        return _envelope(Refused(error.description or "bad request", code="invalid_request"))
    return _unexpected(error)


def _unexpected(error: Exception) -> Response:
    log.error("request_id=%s failed", g.get("request_id", ""), exc_info=error)
    return _envelope(Broken("The runner failed; its log has the details.", code="internal_error"))
