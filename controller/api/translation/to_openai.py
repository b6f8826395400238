"""How a request reaches a third-party server, which speaks the OpenAI API alone."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from controller.api.paths import CHAT_COMPLETIONS, COMPLETIONS, INFERENCE
from controller.api.translation.from_openai import NativeAnswer, RenamedAnswer
from controller.deployment.engines import Engine
from controller.errors import BodyInvalid, TaskUnsupported
from controller.proxy.forwarding import Answer
from controller.registry import ModelSpec


@dataclass(frozen=True, kw_only=True)
class UpstreamRequest:
    """Where a request goes, with which body, and what its answer is read through (None: read as it is)."""

    path: str
    body: bytes
    read: Callable[[Answer], Answer] | None = None


def to_openai(
    spec: ModelSpec,
    engine: Engine,
    upstream: UpstreamRequest,
    *,
    asked_at: float | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> UpstreamRequest:
    """Return a request for our runner (its body a JSON object, checked) as the model's own server understands it.

    `asked_at` is when the client asked, by the clock; None means now.
    Raises TaskUnsupported for what the model or its server does not do.
    """
    path, body = upstream.path, _object(upstream.body)
    if path == INFERENCE:
        return _inference(spec, engine, body, clock, clock() if asked_at is None else asked_at)
    _check_route(spec, engine, path)
    name = body.get("model")
    new_body = {**body, **_defaults(spec, path, body), "model": spec.id}
    return UpstreamRequest(
        path=path,
        body=upstream.body if new_body == body else _json(new_body),
        read=lambda answer: RenamedAnswer(answer, str(name), in_stream=name != spec.id),
    )


def _object(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as exc:
        raise BodyInvalid(f"the request body is not usable: {exc}") from exc
    assert isinstance(value, dict), "checked before"
    return value


def _json(value: dict[str, Any]) -> bytes:
    try:
        return json.dumps(value, allow_nan=False).encode()
    except ValueError as exc:
        raise BodyInvalid(f"the request body is not usable: {exc}") from exc


def _check_route(spec: ModelSpec, engine: Engine, path: str) -> None:
    if path not in engine.routes:
        routes = ", ".join(engine.routes)
        raise TaskUnsupported(f"{spec.id} runs on {spec.engine}, which serves {routes} and not {path}", param="model")


def _defaults(spec: ModelSpec, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """Return the model's `generation:` for what the request leaves out or null."""
    if path not in (CHAT_COMPLETIONS, COMPLETIONS):
        return {}
    defaults = spec.generation.set_values()
    if body.get("max_completion_tokens") is not None:
        defaults.pop("max_tokens", None)
    return {name: value for name, value in defaults.items() if body.get(name) is None}


def _inference(
    spec: ModelSpec, engine: Engine, body: dict[str, Any], clock: Callable[[], float], asked_at: float
) -> UpstreamRequest:
    """Translate a body of `POST /inference`.

    The server is always asked for a stream: that shows when the first token came, and there is one way to read it.
    """
    if spec.task == "embedding":
        raise TaskUnsupported(f"{spec.id} makes embeddings and generates no text", param="model_id")
    sampling = {k: v for k, v in body.items() if k not in ("prompt", "messages", "raw", "stream")}
    if spec.task == "chat" and not body.get("raw"):
        messages = body.get("messages") or [{"role": "user", "content": body["prompt"]}]
        path, text = CHAT_COMPLETIONS, {"messages": messages}
    elif body.get("messages"):
        raise TaskUnsupported(f"{spec.id} is no chat model and takes no messages; send a prompt", param="messages")
    else:
        path, text = COMPLETIONS, {"prompt": body["prompt"]}
    _check_route(spec, engine, path)
    stream = {"stream": True, "stream_options": {"include_usage": True}}
    new_body = {"model": spec.id, **text, **sampling, **_defaults(spec, path, sampling), **stream}
    return UpstreamRequest(path=path, body=_json(new_body), read=lambda answer: NativeAnswer(answer, asked_at, clock))
