"""A request on its way to a model and its answer on the way back, for every route that asks one."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from flask import Response, g, jsonify, request

from controller.api.errors import envelope
from controller.api.foreign import way_to
from controller.api.services import Services
from controller.errors import UpstreamError
from controller.relay import EventStream, Waited
from controller.supervisor import CancelToken

OK = 200
EVENT_STREAM = "text/event-stream"


def relay(
    services: Services,
    model_id: str,
    path: str,
    body: bytes,
    *,
    stream: bool,
    keep_alive_s: float | None = None,
    finish: Callable[[dict[str, Any], Waited], dict[str, Any]] = lambda answer, _waited: answer,
) -> Response:
    """The model's answer to `body`: events pass unread, a whole answer passes through `finish`.

    The path and the body are those of our runner; a server that speaks otherwise gets and gives them in other words.
    A client that leaves ends the wait for the model, or the model's work, at once.
    """
    spec = services.registry.models[model_id]
    way = way_to(spec, services.engines[spec.engine], path, body)
    request_id: str = g.request_id
    token = CancelToken()
    unwatch = services.watch(request.environ, token)
    try:
        exchange = services.relay.open(
            model_id, way.path, way.body, request_id=request_id, token=token, keep_alive_s=keep_alive_s
        )
    except BaseException:
        unwatch()
        raise
    answer = way.read(exchange)
    if stream and answer.status == OK and answer.content_type.startswith(EVENT_STREAM):
        events = EventStream(answer, lambda error: _error_event(error, request_id), unwatch)
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no", **_waited_header(answer.waited)}
        return Response(events, content_type=f"{EVENT_STREAM}; charset=utf-8", headers=headers)
    try:
        response = jsonify(finish(answer.read_object(), answer.waited))
    finally:
        answer.close()
        unwatch()
    response.headers.update(_waited_header(answer.waited))
    return response


def _waited_header(waited: Waited) -> dict[str, str]:
    """The wait for the model, beside what passes unread (Server-Timing, in ms)."""
    return {"Server-Timing": f"queue;dur={waited.queue_s * 1000:.1f}, start;dur={waited.start_s * 1000:.1f}"}


def _error_event(error: UpstreamError, request_id: str) -> bytes:
    return f"data: {json.dumps(envelope(error, request_id))}\n\n".encode()
