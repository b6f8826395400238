"""`POST /inference`: one answer whole, or as server-sent events."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from flask import Response, jsonify

from controller.api.errors import envelope
from controller.api.schemas import InferenceBody
from controller.api.services import Services
from controller.errors import UpstreamError
from controller.relay import EventStream, Exchange, Waited
from controller.supervisor import CancelToken

OK = 200
EVENT_STREAM = "text/event-stream"


def ask(
    services: Services, model_id: str, body: InferenceBody, *, request_id: str, environ: Mapping[str, Any]
) -> Response:
    """The model's answer. A client that leaves ends the wait for the model, or the model's work, at once."""
    token = CancelToken()
    unwatch = services.watch(environ, token)
    try:
        exchange = services.relay.open(
            model_id,
            "/inference",
            body.for_runner(),
            request_id=request_id,
            token=token,
            keep_alive_s=body.keep_alive_s(),
        )
    except BaseException:
        unwatch()
        raise
    if body.stream and exchange.status == OK and exchange.content_type.startswith(EVENT_STREAM):
        stream = EventStream(exchange, lambda error: _error_event(error, request_id), unwatch)
        return Response(stream, content_type=f"{EVENT_STREAM}; charset=utf-8", headers=_stream_headers(exchange))
    try:
        return jsonify(_with_timings(exchange.read_object(), model_id, exchange.waited))
    finally:
        exchange.close()
        unwatch()


def _with_timings(answer: dict[str, Any], model_id: str, waited: Waited) -> dict[str, Any]:
    """The runner's answer, with what only the controller knows: the wait for the model counts in every time."""
    told = answer.get("timings")
    timings = dict(told) if isinstance(told, dict) else {}
    for name in ("ttft_s", "total_s"):
        if isinstance(timings.get(name), (int, float)):
            timings[name] = round(timings[name] + waited.start_s + waited.queue_s, 4)
    ours = {"queue_s": round(waited.queue_s, 4), "start_s": round(waited.start_s, 4)}
    return {**answer, "model_id": model_id, "timings": {**ours, **timings}}


def _stream_headers(exchange: Exchange) -> dict[str, str]:
    """Streamed bytes pass unread, so the wait for the model is told beside them (Server-Timing, in ms)."""
    waited = exchange.waited
    return {
        "Cache-Control": "no-store",
        "X-Accel-Buffering": "no",
        "Server-Timing": f"queue;dur={waited.queue_s * 1000:.1f}, start;dur={waited.start_s * 1000:.1f}",
    }


def _error_event(error: UpstreamError, request_id: str) -> bytes:
    return f"data: {json.dumps(envelope(error, request_id))}\n\n".encode()
