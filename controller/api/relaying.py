"""A request on its way to a model and its answer on the way back, for every route that asks one."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from flask import Response, g, jsonify, request

from controller.api.errors import envelope
from controller.api.services import Services
from controller.errors import UpstreamError
from controller.relay import EventStream, Waited
from controller.supervisor import CancelToken

OK = 200
EVENT_STREAM = "text/event-stream"
JSON = "application/json"


def relay(
    services: Services,
    model_id: str,
    path: str,
    body: bytes,
    *,
    stream: bool,
    keep_alive_s: float | None = None,
    finish: Callable[[dict[str, Any], Waited], dict[str, Any]] | None = None,
) -> Response:
    """The model's answer to `body`: events pass unread, a whole answer passes through `finish`, or as it is.

    A client that leaves ends the wait for the model, or the model's work, at once.
    """
    request_id: str = g.request_id
    token = CancelToken()
    unwatch = services.watch(request.environ, token)
    try:
        exchange = services.relay.open(
            model_id, path, body, request_id=request_id, token=token, keep_alive_s=keep_alive_s
        )
    except BaseException:
        unwatch()
        raise
    if stream and exchange.status == OK and exchange.content_type.startswith(EVENT_STREAM):
        carry = services.carrier(request.environ)
        events = EventStream(exchange, lambda error: _error_event(error, request_id), unwatch, carry)
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no", **_waited_header(exchange.waited)}
        return Response(events, content_type=f"{EVENT_STREAM}; charset=utf-8", headers=headers)
    try:
        answer, raw = exchange.read_whole()
        response = jsonify(finish(answer, exchange.waited)) if finish else Response(raw, content_type=JSON)
    finally:
        exchange.close()
        unwatch()
    response.headers.update(_waited_header(exchange.waited))
    return response


def _waited_header(waited: Waited) -> dict[str, str]:
    """The wait for the model, beside what passes unread (Server-Timing, in ms)."""
    return {"Server-Timing": f"queue;dur={waited.queue_s * 1000:.1f}, start;dur={waited.start_s * 1000:.1f}"}


def _error_event(error: UpstreamError, request_id: str) -> bytes:
    return f"data: {json.dumps(envelope(error, request_id))}\n\n".encode()
