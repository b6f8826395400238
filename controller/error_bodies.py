"""The shapes in which an error reaches a client: ours, and Ollama's on its routes."""

from __future__ import annotations

from typing import Any

from controller.errors import OrchestrarError, UpstreamAnswered


def envelope(error: OrchestrarError, request_id: str | None) -> dict[str, object]:
    """Return the one shape of an error, in a body or in an event of a stream."""
    if isinstance(error, UpstreamAnswered):
        defaults: dict[str, object] = {
            "message": error.message,
            "type": error.type,
            "code": error.code,
            "param": None,
            "details": {},
        }
        return {"error": {**defaults, "request_id": request_id, **error.body["error"], "src": "model"}}
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
    """Return the shape that Ollama's clients read, on its routes alone."""
    inner: Any = envelope(error, request_id)["error"]
    # Its clients take an empty text as no error.
    return {"error": inner["message"] or inner["code"], "code": inner["code"], "request_id": request_id}
