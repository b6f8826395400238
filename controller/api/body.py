"""The raw body of a request, whatever way it is sent, or fails to be."""

from __future__ import annotations

from flask import current_app, request
from gunicorn.http.errors import ParseException
from werkzeug.exceptions import RequestEntityTooLarge

from controller.errors import BodyInvalid


def raw_body() -> bytes:
    """All of it. Raises BodyInvalid for one that does not arrive whole, RequestEntityTooLarge for one too large."""
    try:
        raw = request.get_data(cache=False)
    except (OSError, ParseException) as exc:
        raise BodyInvalid(f"the request body did not arrive whole: {exc}") from exc
    # The bound is one byte more than what is allowed, see `create_app`.
    if len(raw) >= (current_app.config["MAX_CONTENT_LENGTH"] or 0):
        raise RequestEntityTooLarge
    return raw
