"""One table from exception to answer, and one envelope for every route."""

from __future__ import annotations

import logging
import math
from typing import Any

from flask import Flask, Response, g, jsonify, request
from werkzeug.exceptions import HTTPException

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


def envelope(error: OrchestrarError, request_id: str | None) -> dict[str, object]:
    """The one shape of an error, in a body or in an event of a stream."""
    if isinstance(error, UpstreamAnswered):
        missing: dict[str, object] = {
            "message": error.message,
            "type": error.type,
            "code": error.code,
            "param": None,
            "details": {},
        }
        return {"error": {**missing, "request_id": request_id, **error.body["error"], "src": "model"}}
    return {
        "error": {
            "message": error.message,
            "type": error.type,
            "code": error.code,
            "param": error.param,
            "src": "orchestrar",
            "request_id": request_id,
            "details": error.details,
        }
    }


def ollama_error(error: OrchestrarError, request_id: str | None) -> dict[str, object]:
    """The shape that Ollama's clients read, on its routes alone."""
    inner: Any = envelope(error, request_id)["error"]
    # Its clients take an empty text for no error.
    return {"error": inner["message"] or inner["code"], "code": inner["code"], "request_id": request_id}


def public(error: OrchestrarError) -> OrchestrarError:
    """The error as clients see it: Docker's failures, or its silence, are the engine being unavailable."""
    return DockerUnavailable(error.message, retry_after_s=5.0) if isinstance(error, DockerError) else error


def answer(error: OrchestrarError) -> Response:
    """The response for an error of ours."""
    error = public(error)
    worded = ollama_error if request.path.startswith("/api/") else envelope
    response = jsonify(worded(error, g.get("request_id")))
    response.status_code = error.upstream_status if isinstance(error, UpstreamAnswered) else error.status
    if error.retry_after_s is not None:
        response.headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    if error.status == 504:
        response.headers["x-should-retry"] = "false"
    return response


def install(app: Flask) -> None:
    """Let every failure of a request end in the envelope."""

    @app.errorhandler(OrchestrarError)
    def _ours(error: OrchestrarError) -> Response:
        return answer(error)

    @app.errorhandler(HTTPException)
    def _werkzeug(error: HTTPException) -> Response:
        response = answer(_named(error))
        if allowed := getattr(error, "valid_methods", None):
            response.headers["Allow"] = ", ".join(sorted(allowed))
        return response

    @app.errorhandler(Exception)
    def _fault(error: Exception) -> Response:
        log.error("request %s failed by a fault of the controller", g.get("request_id"), exc_info=error)
        return answer(OrchestrarError("the controller met a fault of its own; its log has the details"))


def _named(error: HTTPException) -> OrchestrarError:
    if error.code == RouteNotFound.status:
        return RouteNotFound(f"there is no route {request.method} {request.path}; GET / lists them")
    if error.code == MethodNotAllowed.status:
        allowed = ", ".join(sorted(getattr(error, "valid_methods", None) or []))
        return MethodNotAllowed(f"{request.path} does not take {request.method}; it takes {allowed}")
    if error.code == BodyTooLarge.status:
        return BodyTooLarge("the request body is too large; ORCHESTRAR_MAX_BODY_BYTES is the limit")
    return BodyInvalid(error.description or "the request is not usable")
