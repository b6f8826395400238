"""Ollama's requests in the form of the OpenAI API. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from controller.api.ollama.bodies import ChatBody, EmbedBody, GenerateBody, Message, Options
from controller.api.paths import CHAT_COMPLETIONS, COMPLETIONS, EMBEDDINGS
from controller.api.translation.to_openai import UpstreamRequest
from controller.errors import BodyInvalid
from controller.registry import ModelSpec


def chat_request(body: ChatBody, spec: ModelSpec) -> UpstreamRequest:
    """Return the request for a chat."""
    tools = [{"type": "function", **tool} for tool in body.tools or ()]
    chat = {"messages": _messages(body.messages or ()), **({"tools": tools} if tools else {})}
    return _request(CHAT_COMPLETIONS, {**_common_fields(body, spec), **chat})


def generate_request(body: GenerateBody, spec: ModelSpec) -> UpstreamRequest:
    """Return a chat of one user message, or for raw text and for models without a chat template a completion."""
    fields = _common_fields(body, spec)
    if body.raw or spec.task == "completion":
        if body.system:
            raise BodyInvalid(f"{body.model} has no chat template, and so no place for system", param="system")
        return _request(COMPLETIONS, {**fields, "prompt": body.prompt})
    system = [{"role": "system", "content": body.system}] if body.system else []
    return _request(CHAT_COMPLETIONS, {**fields, "messages": [*system, {"role": "user", "content": body.prompt}]})


def embed_request(body: EmbedBody, spec: ModelSpec) -> UpstreamRequest:
    """Return the request for vectors; `truncate`, which OpenAI has not, is Ollama's default."""
    fields: dict[str, Any] = {"model": spec.id, "input": body.input, "encoding_format": "float"}
    fields["truncate"] = body.truncate is not False
    if body.dimensions is not None:
        fields["dimensions"] = body.dimensions
    return _request(EMBEDDINGS, fields)


def _request(path: str, fields: dict[str, Any]) -> UpstreamRequest:
    return UpstreamRequest(path=path, body=json.dumps(fields).encode())


def _common_fields(body: ChatBody | GenerateBody, spec: ModelSpec) -> dict[str, Any]:
    fields: dict[str, Any] = {"model": spec.id, **_sampling(body.options or Options())}
    if body.format is not None:
        fields["response_format"] = _response_format(body.format)
    if body.is_streamed:
        fields |= {"stream": True, "stream_options": {"include_usage": True}}
    return fields


def _sampling(options: Options) -> dict[str, Any]:
    """Translate the options. A seed below 0 (a new one each time) and a length below 0 (unbounded) mean the default."""
    sampling = {
        "temperature": options.temperature,
        "top_p": options.top_p,
        "top_k": options.top_k,
        "seed": None if options.seed is None or options.seed < 0 else options.seed,
        "max_tokens": None if options.num_predict is None or options.num_predict <= 0 else options.num_predict,
        "stop": options.stop or None,
    }
    return {name: value for name, value in sampling.items() if value is not None}


def _response_format(json_format: str | dict[str, Any]) -> dict[str, Any]:
    if isinstance(json_format, str):
        return {"type": "json_object"}
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": json_format}}


def _messages(messages: Iterable[Message]) -> list[dict[str, Any]]:
    """Translate messages. In the OpenAI API results name their call's id; Ollama goes by the tool's name and order."""
    openai_messages: list[dict[str, Any]] = []
    unanswered: list[tuple[str, str]] = []
    for message in messages:
        openai_message: dict[str, Any] = {"role": message.role, "content": message.content or ""}
        if message.tool_calls:
            ids = [call.id or f"call_{len(openai_messages)}_{index}" for index, call in enumerate(message.tool_calls)]
            openai_message["tool_calls"] = [
                {
                    "id": call_id,
                    "type": "function",
                    "function": {"name": call.function.name, "arguments": json.dumps(call.function.arguments)},
                }
                for call_id, call in zip(ids, message.tool_calls, strict=True)
            ]
            unanswered += [(call.function.name, id) for call, id in zip(message.tool_calls, ids, strict=True)]
        if message.role == "tool":
            openai_message["tool_call_id"] = message.tool_call_id or _take_id(unanswered, message.tool_name)
        openai_messages.append(openai_message)
    return openai_messages


def _take_id(unanswered: list[tuple[str, str]], name: str | None) -> str:
    """Return the id of the first call without a result; if a tool is named, of its first."""
    first = next((call for call in unanswered if name in (None, call[0])), None)
    if first is None:
        return name or ""
    unanswered.remove(first)
    return first[1]
