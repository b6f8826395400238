"""The one table from exception to answer, for every route."""

from __future__ import annotations

import logging
import math

from flask import Flask, Response, g, jsonify, request
from werkzeug.exceptions import HTTPException

from controller.error_bodies import envelope, ollama_error
from controller.errors import (
    BodyInvalid,
    BodyTooLarge,
    DockerError,
    DockerUnavailable,
    MethodNotAllowed,
    OrchestrarError,
    RouteNotFound,
    UpstreamAnswered,
)

log = logging.getLogger(__name__)


def public(error: OrchestrarError) -> OrchestrarError:
    """Return the error as clients see it: Docker that fails or is silent is unavailable."""
    return DockerUnavailable(error.message, retry_after_s=5.0) if isinstance(error, DockerError) else error


def answer(error: OrchestrarError) -> Response:
    """Return the response for an error of ours."""
    error = public(error)
    # By the path, since a request for an unknown route has no blueprint: Ollama's clients read its 404s, too.
    body_of = ollama_error if request.path.startswith("/api/") else envelope
    response = jsonify(body_of(error, g.get("request_id")))
    response.status_code = error.upstream_status if isinstance(error, UpstreamAnswered) else error.status
    if error.retry_after_s is not None:
        response.headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    if error.status == 504:
        response.headers["x-should-retry"] = "false"
    return response


def install(app: Flask) -> None:
    """Answer every failure of a request in the one shape of an error."""

    @app.errorhandler(OrchestrarError)
    def _answer_own(error: OrchestrarError) -> Response:
        return answer(error)

    @app.errorhandler(HTTPException)
    def _answer_http(error: HTTPException) -> Response:
        response = answer(_own_error(error))
        if methods := getattr(error, "valid_methods", None):
            response.headers["Allow"] = ", ".join(sorted(methods))
        return response

    @app.errorhandler(Exception)
    def _answer_fault(error: Exception) -> Response:
        log.error("request %s failed because of a fault in the controller", g.get("request_id"), exc_info=error)
        return answer(OrchestrarError("the controller has a fault of its own; its log has the details"))


def _own_error(error: HTTPException) -> OrchestrarError:
    if error.code == RouteNotFound.status:
        return RouteNotFound(f"there is no route {request.method} {request.path}; GET / lists them")
    if error.code == MethodNotAllowed.status:
        methods = ", ".join(sorted(getattr(error, "valid_methods", None) or []))
        return MethodNotAllowed(f"{request.path} does not take {request.method}; it takes {methods}")
    if error.code == BodyTooLarge.status:
        return BodyTooLarge("the request body is too large; ORCHESTRAR_MAX_BODY_BYTES is the limit")
    return BodyInvalid(error.description or "the request is not usable")
