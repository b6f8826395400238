"""The HTTP app for one engine: health, metrics, `POST /inference`, and the OpenAI API's routes."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable

from flask import Flask, Response, g, request
from werkzeug.exceptions import HTTPException

from runner.api.bodies.embeddings import parse_embeddings_body
from runner.api.bodies.native import MAX_BODY_BYTES, parse_inference_body
from runner.api.bodies.openai import parse_chat_body, parse_completion_body
from runner.api.embeddings import Embeddings
from runner.api.errors import BodyTooLarge, MethodNotAllowed, RequestRefused, RouteNotFound, RunnerError, ServerError
from runner.api.event_stream import KEEP_ALIVE_AFTER_S, NativeFormat
from runner.api.generations import Generations, client_socket, json_response
from runner.api.metrics import CONTENT_TYPE, MetricsSource
from runner.api.openai_formats import ChatFormat, CompletionFormat
from runner.engine import Embedder, Engine
from runner.loading import Loader
from runner.settings import RunnerSettings

log = logging.getLogger("runner")

# Bounds a request body that never arrives and a client that never reads; gunicorn's gthread bounds neither.
SOCKET_TIMEOUT_S = 60.0

INFERENCE = "/inference"
CHAT_COMPLETIONS = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
EMBEDDINGS = "/v1/embeddings"
View = Callable[[], Response]


def create_app(
    engine: Engine | Embedder, settings: RunnerSettings, loader: Loader, *, silence_s: float = KEEP_ALIVE_AFTER_S
) -> Flask:
    """Return the app; `loader` loads that engine, and may be in any phase."""
    app = Flask("runner", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
    if isinstance(engine, Embedder):
        embeddings = Embeddings(engine, settings, loader)
        views = _embedding_views(embeddings)
        metrics: MetricsSource = embeddings.metrics
    else:
        generations = Generations(engine, settings, loader, silence_s)
        views = _text_views(generations, settings.model_id)
        metrics = generations.metrics
    app.add_url_rule("/metrics", view_func=lambda: _metrics(metrics), endpoint="metrics")
    app.add_url_rule("/health", view_func=lambda: _health(engine, settings, loader), endpoint="health")
    for path, view in views.items():
        app.add_url_rule(path, view_func=view, endpoint=path, methods=["POST"])
    app.before_request(_begin)
    app.register_error_handler(RunnerError, _envelope)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _unexpected)
    return app


def _text_views(generations: Generations, model_id: str) -> dict[str, View]:
    def inference() -> Response:
        return generations.answer(parse_inference_body(_read_body()), NativeFormat())

    def chat_completions() -> Response:
        body = parse_chat_body(_read_body())
        return generations.answer(body, ChatFormat(body, model_id))

    def completions() -> Response:
        body = parse_completion_body(_read_body())
        return generations.answer(body, CompletionFormat(body, model_id))

    def refuse_embeddings() -> Response:
        raise RequestRefused(
            "This model generates text and cannot make embeddings; use a model that is made for them "
            "(`task: embedding` in models.yaml).",
            code="task_unsupported",
            param="model",
        )

    return {
        INFERENCE: inference,
        CHAT_COMPLETIONS: chat_completions,
        COMPLETIONS: completions,
        EMBEDDINGS: refuse_embeddings,
    }


def _embedding_views(embeddings: Embeddings) -> dict[str, View]:
    def answer() -> Response:
        return embeddings.answer(parse_embeddings_body(_read_body()))

    def refuse_text() -> Response:
        message = f"This model makes embeddings and cannot generate text; use {EMBEDDINGS}."
        raise RequestRefused(message, code="task_unsupported", param="model")

    return {
        INFERENCE: refuse_text,
        CHAT_COMPLETIONS: refuse_text,
        COMPLETIONS: refuse_text,
        EMBEDDINGS: answer,
    }


def _metrics(metrics: MetricsSource) -> Response:
    return Response(metrics.text(), content_type=CONTENT_TYPE)


def _begin() -> None:
    caller_id = request.headers.get("X-Request-Id", "")
    is_usable = caller_id.isascii() and caller_id.isprintable() and 0 < len(caller_id) <= 128
    g.request_id = caller_id if is_usable else uuid.uuid4().hex
    if (client := client_socket(request)) is not None:
        client.settimeout(SOCKET_TIMEOUT_S)


def _health(engine: Engine | Embedder, settings: RunnerSettings, loader: Loader) -> Response:
    if not loader.is_ready():
        return json_response({"status": "loading", "phase": loader.phase}, 503)
    if (reason := engine.failure()) is not None:
        # An engine may also fail while it has no requests.
        loader.fail_after_last_words(reason)
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
        raise RequestRefused("The body did not arrive in time.", code="invalid_body") from None


def _envelope(error: RunnerError) -> Response:
    response = json_response({"error": error.inner(g.get("request_id", ""))}, error.status)
    if error.retry_after_s is not None:
        response.headers["Retry-After"] = str(error.retry_after_s)
    return response


def _http_error(error: HTTPException) -> Response:
    if error.code == 404:
        return _envelope(RouteNotFound(f"There is no route {request.path}.", code="route_not_found"))
    if error.code == 405:
        message = f"{request.path} does not accept {request.method}."
        response = _envelope(MethodNotAllowed(message, code="method_not_allowed"))
        response.headers["Allow"] = ", ".join(sorted(getattr(error, "valid_methods", None) or ()))
        return response
    if error.code == 413:
        message = f"The body is larger than {MAX_BODY_BYTES} bytes; send a smaller one."
        return _envelope(BodyTooLarge(message, code="body_too_large"))
    if error.code is not None and error.code < 500:
        return _envelope(RequestRefused(error.description or "bad request", code="invalid_request"))
    return _unexpected(error)


def _unexpected(error: Exception) -> Response:
    log.error("request_id=%s failed", g.get("request_id", ""), exc_info=error)
    return _envelope(ServerError("The runner failed; its log has the details.", code="internal_error"))
