"""The raw body of a request, whatever way it is sent, or fails to be."""

from __future__ import annotations

from flask import current_app, request
from werkzeug.exceptions import ClientDisconnected, RequestEntityTooLarge

from controller.errors import BodyInvalid, OrchestrarError, Overloaded, RequestTimeout
from controller.server.client_connection import BODY_ERRORS, NoReaderLeft


def raw_body() -> bytes:
    """All of it.

    Raises BodyInvalid for one that does not arrive whole, RequestTimeout for one that comes too slowly, Overloaded
    while too many of those are waited for, RequestEntityTooLarge for one too large.
    """
    try:
        raw = request.get_data(cache=False)
    except ClientDisconnected as exc:
        # What the server's own stream raised, in werkzeug's words for all that a stream may raise.
        raise _refusal(exc.__context__) from exc
    except BODY_ERRORS as exc:
        raise _refusal(exc) from exc
    # The bound is one byte more than what is allowed, see `create_app`.
    if len(raw) >= (current_app.config["MAX_CONTENT_LENGTH"] or 0):
        raise RequestEntityTooLarge
    return raw


def _refusal(cause: BaseException | None) -> OrchestrarError:
    if isinstance(cause, NoReaderLeft):
        return Overloaded(f"{cause}; try again soon")
    if isinstance(cause, TimeoutError):
        return RequestTimeout(f"the request's body came too slowly: {cause}")
    return BodyInvalid(f"the request body did not arrive whole: {cause or 'the client closed the connection'}")
