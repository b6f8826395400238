"""The one way from a checked request to a model and back, for every API: name, task, server, answer, response."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeAlias, TypeVar

from flask import Response, g, request

from controller.api.paths import CHAT_COMPLETIONS, COMPLETIONS, EMBEDDINGS
from controller.api.services import services
from controller.api.translation import sse
from controller.api.translation.to_openai import UpstreamRequest, to_openai
from controller.deployment.engines import Engine
from controller.error_bodies import envelope
from controller.errors import ModelNotFound, ModelStopping, OrchestrarError, TaskUnsupported
from controller.proxy.event_stream import EventStream
from controller.proxy.forwarding import Answer, Pieces, RunnerRequest, WaitTimes
from controller.registry import ModelSpec
from controller.supervisor import CancelToken, ModelView

OK = 200

Resolve: TypeAlias = Callable[[str], ModelSpec]
Result = TypeVar("Result")


class AnswerFormat(Protocol):
    """The form in which one client gets one answer; made for each request."""

    stream_type: str

    def whole(self, answer: Answer) -> bytes:
        """Return the answer in one piece, as JSON. Raises UpstreamError for what is none."""

    def pieces(self, answer: Answer) -> Pieces:
        """Return the answer as it comes."""

    def error(self, error: OrchestrarError, request_id: str) -> bytes:
        """Return what ends a stream that breaks."""


class Unchanged:
    """The model's own answer; its contents are not read."""

    stream_type = sse.CONTENT_TYPE

    def whole(self, answer: Answer) -> bytes:
        return answer.read_whole()

    def pieces(self, answer: Answer) -> Pieces:
        return answer

    def error(self, error: OrchestrarError, request_id: str) -> bytes:
        return sse.event(json.dumps(envelope(error, request_id)))


@dataclass(frozen=True)
class TaskRule:
    """Which tasks a model may have to be asked for something, and how the refusal of another task reads."""

    tasks: frozenset[str]
    refusal: str

    def check(self, spec: ModelSpec, name: str, *, param: str) -> None:
        """Raise TaskUnsupported, with the name that the client wrote, unless the model has one of the tasks."""
        if spec.task not in self.tasks:
            other = " or ".join(f"`task: {task}`" for task in sorted(self.tasks))
            raise TaskUnsupported(
                f"{name} {self.refusal}: its task in models.yaml is {spec.task}; ask it by {_ROUTES[spec.task]}, "
                f"or a model with {other}",
                param=param,
            )


CHAT = TaskRule(frozenset({"chat"}), "is no chat model and takes no messages")
TEXT = TaskRule(frozenset({"chat", "completion"}), "generates no text")
VECTORS = TaskRule(frozenset({"embedding"}), "makes no embeddings")

_ROUTES = {"chat": CHAT_COMPLETIONS, "completion": COMPLETIONS, "embedding": EMBEDDINGS}


@dataclass(frozen=True, kw_only=True)
class ModelRequest:
    """What a client asks of a model, from a body that was checked.

    `name` is as the client wrote it, in the field `param`. `upstream` is what our runner is sent, or makes that for the
    model that the name means.
    """

    name: str
    param: str
    task_rule: TaskRule
    upstream: UpstreamRequest | Callable[[ModelSpec], UpstreamRequest]
    answer_format: AnswerFormat
    stream: bool = False
    keep_alive_s: float | None = None


def forward_to_model(model_request: ModelRequest, resolve: Resolve) -> Response:
    """Return the model's answer to a request, as its client gets it.

    A client that leaves ends the wait for the model, or the model's work, at once.
    """
    return with_model(resolve, model_request.name, partial(_forward, model_request))


def with_model(resolve: Resolve, name: str, use: Callable[[ModelSpec, float | None], Result]) -> Result:
    """Return what `use` returns for the model of this name and the time it may be waited for (None: its `max_wait`).

    A reload may give the name to another model meanwhile and have the earlier one refuse: then the new one is used,
    within what is left of its time. If the name means no model by then, the refusal stands.
    """
    started_at = time.monotonic()
    spec, max_wait_s = resolve(name), None
    while True:
        try:
            return use(spec, max_wait_s)
        except (ModelStopping, ModelNotFound) as refusal:
            try:
                new_spec = resolve(name)
            except ModelNotFound:
                raise refusal from None
            if new_spec.id == spec.id:
                raise
            spec, max_wait_s = new_spec, new_spec.max_wait_s - (time.monotonic() - started_at)


def start_model(
    spec: ModelSpec, max_wait_s: float | None, *, wait: bool, keep_alive_s: float | None = None
) -> ModelView:
    """Start the model for the client of the current request and return its state; `wait` until it is ready."""
    with services().proxy.place(), services().leaving_client(request.environ) as token:
        return services().supervisor.run(
            spec.id, wait=wait, max_wait_s=max_wait_s, token=token, keep_alive_s=keep_alive_s
        )


class EngineMessage:
    """One request as the server of its model's engine understands it: our runner gets it unchanged, others what the
    OpenAI API has for it."""

    def __init__(self, spec: ModelSpec, engines: Mapping[str, Engine], upstream: UpstreamRequest) -> None:
        """Raise TaskUnsupported for what the engine does not serve: before a start if models.yaml names the engine."""
        self._spec = spec
        self._engines = engines
        self._upstream = upstream
        self._asked_at = time.monotonic()
        self._engine = ""
        self.sent = upstream
        if not spec.candidates:
            self.for_engine(spec.engine)

    def for_engine(self, name: str) -> tuple[str, bytes]:
        """Return path and body for the server of this engine; for a name that is not known, of the model's own.

        Raises TaskUnsupported for what it does not serve.
        """
        name = name if name in self._engines else self._spec.engine
        if name != self._engine:
            engine, spec = self._engines[name], self._spec.on(name, "")
            upstream = self._upstream
            self.sent = upstream if engine.own else to_openai(spec, engine, upstream, asked_at=self._asked_at)
            self._engine = name
        return self.sent.path, self.sent.body

    def read(self, answer: Answer) -> Answer:
        """Return the answer to what was sent last, in the form of our runner's."""
        return answer if self.sent.read is None else self.sent.read(answer)


def _forward(model_request: ModelRequest, spec: ModelSpec, max_wait_s: float | None) -> Response:
    model_request.task_rule.check(spec, model_request.name, param=model_request.param)
    parts = services()
    upstream = model_request.upstream
    if not isinstance(upstream, UpstreamRequest):
        upstream = upstream(spec)
    message = EngineMessage(parts.supervisor.entry(spec.id), parts.engines, upstream)
    runner_request = RunnerRequest(
        model_id=spec.id,
        message=message.for_engine,
        request_id=g.request_id,
        max_wait_s=max_wait_s,
        keep_alive_s=model_request.keep_alive_s,
    )
    token = CancelToken()
    unwatch = parts.watch(request.environ, token)
    try:
        answer: Answer = parts.proxy.open(runner_request, token)
    except BaseException:
        unwatch()
        raise
    answer = message.read(answer)
    if model_request.stream and answer.status == OK and answer.content_type.startswith(sse.EVENT_STREAM):
        return _stream(answer, model_request.answer_format, unwatch)
    try:
        response = Response(model_request.answer_format.whole(answer), content_type="application/json")
    finally:
        answer.close()
        unwatch()
    response.headers.update(_server_timing(answer.wait_times))
    return response


def _stream(answer: Answer, answer_format: AnswerFormat, unwatch: Callable[[], None]) -> Response:
    request_id: str = g.request_id
    pieces = answer_format.pieces(answer)
    carry = services().carrier(request.environ, pieces)
    events = EventStream(pieces, lambda error: answer_format.error(error, request_id), unwatch, carry)
    return stream_response(events, answer_format.stream_type, _server_timing(answer.wait_times))


def stream_response(body: Any, content_type: str, headers: dict[str, str] | None = None) -> Response:
    """Return a streamed answer that no proxy on its way may hold back; `body` is closed in the end."""
    all_headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no", **(headers or {})}
    return Response(body, content_type=content_type, headers=all_headers)


def as_json(value: dict[str, Any]) -> bytes:
    """Return one line, which may be one of many; half a character, which JSON can hold and UTF-8 not, becomes "?"."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(errors="replace") + b"\n"


def _server_timing(wait_times: WaitTimes) -> dict[str, str]:
    """Return the wait for the model as a header, in ms: the answer itself may pass unread."""
    queue_ms, start_ms = wait_times.queue_s * 1000, wait_times.start_s * 1000
    return {"Server-Timing": f"queue;dur={queue_ms:.1f}, start;dur={start_ms:.1f}"}
