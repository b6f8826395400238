"""The runner's failures over HTTP: all share one envelope, with `src` "model"."""

from __future__ import annotations

from typing import Any, ClassVar


class RunnerError(Exception):
    """A failure with its HTTP status and stable `code`; its text may be shown to clients."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"

    def __init__(self, message: str, *, code: str, param: str | None = None, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.param = param
        self.retry_after_s = retry_after_s

    def inner(self, request_id: str) -> dict[str, Any]:
        """Return the object under the envelope's `error` key."""
        return {
            "message": self.message,
            "type": self.type,
            "code": self.code,
            "param": self.param,
            "src": "model",
            "request_id": request_id,
            "details": {},
        }


class RequestRefused(RunnerError):
    """400: the client is at fault."""

    status = 400
    type = "invalid_request_error"


class RouteNotFound(RequestRefused):
    status = 404


class MethodNotAllowed(RequestRefused):
    status = 405


class BodyTooLarge(RequestRefused):
    status = 413


class Unavailable(RunnerError):
    """503: the client may retry later."""

    status = 503


class ServerError(RunnerError):
    """500: the engine or the runner failed."""
