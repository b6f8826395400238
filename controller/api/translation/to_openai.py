"""How a request reaches a server that speaks the OpenAI API alone."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from controller.api.translation.from_openai import NativeAnswer, RenamedAnswer
from controller.deployment.engines import Engine
from controller.errors import BodyInvalid, TaskUnsupported
from controller.proxy.forwarding import Answer
from controller.registry import ModelSpec

INFERENCE, CHAT, COMPLETIONS = "/inference", "/v1/chat/completions", "/v1/completions"


@dataclass(frozen=True, kw_only=True)
class UpstreamRequest:
    """Where a request goes, with which body, and what its answer is read through."""

    path: str
    body: bytes
    read: Callable[[Answer], Answer] = lambda answer: answer


def route_for(
    spec: ModelSpec, engine: Engine, path: str, body: bytes, *, clock: Callable[[], float] = time.monotonic
) -> UpstreamRequest:
    """The way of a request as it came (a JSON object, checked) to the model's server.

    Our runner takes it as it is. Raises TaskUnsupported for what the model or its server does not do.
    """
    if engine.own:
        return UpstreamRequest(path=path, body=body)
    asked = _object(body)
    if path == INFERENCE:
        return _inference(spec, engine, asked, clock)
    _require_route(spec, engine, path)
    name = asked.get("model")
    sent = {**asked, **_defaults(spec, path, asked), "model": spec.id}
    return UpstreamRequest(
        path=path,
        body=body if sent == asked else _json(sent),
        read=lambda answer: RenamedAnswer(answer, str(name), in_stream=name != spec.id),
    )


def _object(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as exc:
        raise BodyInvalid(f"the request body is not usable: {exc}") from exc
    assert isinstance(found, dict), "checked before"
    return found


def _json(value: dict[str, Any]) -> bytes:
    try:
        return json.dumps(value, allow_nan=False).encode()
    except ValueError as exc:
        raise BodyInvalid(f"the request body is not usable: {exc}") from exc


def _require_route(spec: ModelSpec, engine: Engine, path: str) -> None:
    if path not in engine.routes:
        served = ", ".join(engine.routes)
        raise TaskUnsupported(f"{spec.id} runs on {spec.engine}, which serves {served} and not {path}", param="model")


def _defaults(spec: ModelSpec, path: str, asked: dict[str, Any]) -> dict[str, Any]:
    """The model's `generation:`, for what the request leaves out or null."""
    if path not in (CHAT, COMPLETIONS):
        return {}
    given = spec.generation.given()
    if asked.get("max_completion_tokens") is not None:
        given.pop("max_tokens", None)
    return {name: value for name, value in given.items() if asked.get(name) is None}


def _inference(spec: ModelSpec, engine: Engine, asked: dict[str, Any], clock: Callable[[], float]) -> UpstreamRequest:
    """A body of `POST /inference` in the words of the OpenAI API.

    The server is always asked for a stream: that tells when the first token came, and is read in one way alone.
    """
    if spec.task == "embedding":
        raise TaskUnsupported(f"{spec.id} makes embeddings and generates no text", param="model_id")
    sampling = {k: v for k, v in asked.items() if k not in ("prompt", "messages", "raw", "stream")}
    if spec.task == "chat" and not asked.get("raw"):
        path, text = CHAT, {"messages": asked.get("messages") or [{"role": "user", "content": asked["prompt"]}]}
    elif asked.get("messages"):
        raise TaskUnsupported(f"{spec.id} is no chat model and takes no messages; send a prompt", param="messages")
    else:
        path, text = COMPLETIONS, {"prompt": asked["prompt"]}
    _require_route(spec, engine, path)
    stream = {"stream": True, "stream_options": {"include_usage": True}}
    body = {"model": spec.id, **text, **sampling, **_defaults(spec, path, sampling), **stream}
    begun_s = clock()
    return UpstreamRequest(path=path, body=_json(body), read=lambda answer: NativeAnswer(answer, begun_s, clock))
