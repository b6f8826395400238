"""A request on its way to a model and its answer on the way back, for every route that asks one."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from flask import Response, g, request

from controller.api.services import Services
from controller.api.translation.to_openai import route_for
from controller.error_bodies import envelope
from controller.errors import ModelNotFound, ModelStopping, OrchestrarError
from controller.proxy.event_stream import EventStream
from controller.proxy.forwarding import Answer, Pieces, Waited
from controller.registry import ModelSpec
from controller.supervisor import CancelToken

OK = 200
EVENT_STREAM = "text/event-stream"

Answered = TypeVar("Answered")


class AnswerFormat(Protocol):
    """How one answer is told to its client; made anew for each request."""

    stream_type: str

    def whole(self, answer: Answer) -> bytes:
        """The answer in one piece, as JSON. Raises UpstreamError for what is none."""

    def streamed(self, answer: Answer) -> Pieces:
        """The answer as it comes."""

    def error(self, error: OrchestrarError, request_id: str) -> bytes:
        """What ends a stream that breaks."""


class AsItCame:
    """The wording of the model itself: all passes unread."""

    stream_type = f"{EVENT_STREAM}; charset=utf-8"

    def whole(self, answer: Answer) -> bytes:
        return answer.read_whole()

    def streamed(self, answer: Answer) -> Pieces:
        return answer

    def error(self, error: OrchestrarError, request_id: str) -> bytes:
        return f"data: {json.dumps(envelope(error, request_id))}\n\n".encode()


def by_name(
    resolve: Callable[[str], ModelSpec], name: str, ask: Callable[[ModelSpec, float | None], Answered]
) -> Answered:
    """What `ask` answers for the model of this name, given the time it may still wait for it (None: all of it).

    A reload may give the name to another model while the request is on its way, and have the one before refuse it:
    then the new one is asked. Where the name is nobody's by then, the refusal stands.
    """
    begun = time.monotonic()
    spec, left_s = resolve(name), None
    while True:
        try:
            return ask(spec, left_s)
        except (ModelStopping, ModelNotFound) as refusal:
            try:
                meant_now = resolve(name)
            except ModelNotFound:
                raise refusal from None
            if meant_now.id == spec.id:
                raise
            spec, left_s = meant_now, meant_now.max_wait_s - (time.monotonic() - begun)


def relay(
    services: Services,
    spec: ModelSpec,
    path: str,
    body: bytes,
    *,
    stream: bool,
    wording: AnswerFormat,
    left_s: float | None,
    keep_alive_s: float | None = None,
) -> Response:
    """The model's answer to `body`; `left_s` is how long it may be waited for (None: the model's `max_wait`).

    The path and the body are those of our runner; a server that speaks otherwise gets and gives them in other words.
    A client that leaves ends the wait for the model, or the model's work, at once.
    """
    way = route_for(spec, services.engines[spec.engine], path, body)
    request_id: str = g.request_id
    token = CancelToken()
    unwatch = services.watch(request.environ, token)
    try:
        exchange = services.proxy.open(
            spec.id,
            way.path,
            way.body,
            request_id=request_id,
            token=token,
            left_s=left_s,
            keep_alive_s=keep_alive_s,
        )
    except BaseException:
        unwatch()
        raise
    answer = way.read(exchange)
    if stream and answer.status == OK and answer.content_type.startswith(EVENT_STREAM):
        pieces = wording.streamed(answer)
        carry = services.carrier(request.environ, pieces)
        events = EventStream(pieces, lambda error: wording.error(error, request_id), unwatch, carry)
        return stream_response(events, wording.stream_type, _waited_header(answer.waited))
    try:
        response = Response(wording.whole(answer), content_type="application/json")
    finally:
        answer.close()
        unwatch()
    response.headers.update(_waited_header(answer.waited))
    return response


def stream_response(body: Any, content_type: str, headers: dict[str, str] | None = None) -> Response:
    """A streamed answer that nothing on its way may keep back; `body` is closed in the end."""
    whole = {"Cache-Control": "no-store", "X-Accel-Buffering": "no", **(headers or {})}
    return Response(body, content_type=content_type, headers=whole)


def as_json(value: dict[str, Any]) -> bytes:
    """On one line, which may be one of many; half a character, which JSON can hold and UTF-8 not, becomes a "?"."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(errors="replace") + b"\n"


def _waited_header(waited: Waited) -> dict[str, str]:
    """The wait for the model, beside what passes unread (Server-Timing, in ms)."""
    return {"Server-Timing": f"queue;dur={waited.queue_s * 1000:.1f}, start;dur={waited.start_s * 1000:.1f}"}
