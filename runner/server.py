"""The HTTP app around one engine: health, metrics, `POST /inference`, and the OpenAI API's routes that generate."""

from __future__ import annotations

import logging
import os
import sys
import uuid

from flask import Flask, Response, g, request
from werkzeug.exceptions import HTTPException

from runner.bodies import MAX_BODY_BYTES, parse_inference_body
from runner.engine import Engine, EngineError
from runner.engines import make_engine
from runner.errors import BodyTooLarge, Broken, MethodNotAllowed, Refused, RouteNotFound, RunnerError
from runner.events import KEEP_ALIVE_AFTER_S, NativeFormat
from runner.generations import Generations, client_socket, json_response
from runner.loading import Loader
from runner.metrics import Metrics
from runner.openai_bodies import parse_chat_body, parse_completion_body
from runner.openai_formats import ChatFormat, CompletionFormat
from runner.settings import RunnerSettings, read_settings

log = logging.getLogger("runner")

# Bounds a body that never arrives and a reader that never reads; gunicorn's gthread bounds neither.
SOCKET_TIMEOUT_S = 60.0


def application() -> Flask:
    """The app for gunicorn, called in the worker after the fork: begins to load the model and returns at once."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stdout)
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
    generations = Generations(engine, settings, loader, silence_s)

    def inference() -> Response:
        return generations.answer(parse_inference_body(_read_body()), NativeFormat())

    def chat_completions() -> Response:
        body = parse_chat_body(_read_body())
        return generations.answer(body, ChatFormat(body, settings.model_id))

    def completions() -> Response:
        body = parse_completion_body(_read_body())
        return generations.answer(body, CompletionFormat(body, settings.model_id))

    def metrics() -> Response:
        return Response(generations.metrics.text(), content_type=Metrics.content_type)

    app.add_url_rule("/health", view_func=lambda: _health(engine, settings, loader), endpoint="health")
    app.add_url_rule("/metrics", view_func=metrics)
    app.add_url_rule("/inference", view_func=inference, methods=["POST"])
    app.add_url_rule("/v1/chat/completions", view_func=chat_completions, methods=["POST"])
    app.add_url_rule("/v1/completions", view_func=completions, methods=["POST"])
    app.before_request(_begin)
    app.register_error_handler(RunnerError, _envelope)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _unexpected)
    return app


def _begin() -> None:
    given = request.headers.get("X-Request-Id", "")
    g.request_id = given if given.isascii() and given.isprintable() and 0 < len(given) <= 128 else uuid.uuid4().hex
    if (client := client_socket(request)) is not None:
        client.settimeout(SOCKET_TIMEOUT_S)


def _health(engine: Engine, settings: RunnerSettings, loader: Loader) -> Response:
    if not loader.is_ready():
        return json_response({"status": "loading", "phase": loader.phase}, 503)
    if (reason := engine.failure()) is not None:
        return json_response({"status": "failed", "reason": reason}, 503)
    capabilities = loader.capabilities
    assert capabilities is not None
    return json_response(
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


def _read_body() -> bytes:
    try:
        return request.get_data(cache=False)
    except OSError:
        raise Refused("The body did not arrive in time.", code="invalid_body") from None


def _envelope(error: RunnerError) -> Response:
    response = json_response({"error": error.inner(g.get("request_id", ""))}, error.status)
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
