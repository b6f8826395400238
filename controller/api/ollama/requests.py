"""Ollama's requests in the words of the OpenAI API. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from controller.api.ollama.bodies import ChatBody, EmbedBody, GenerateBody, Message, Options
from controller.errors import BodyInvalid
from controller.registry import ModelSpec

CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"


def chat_request(body: ChatBody, spec: ModelSpec) -> dict[str, Any]:
    """The body for `CHAT`."""
    tools = [{"type": "function", **tool} for tool in body.tools or ()]
    return {**_asked(body, spec), "messages": _messages(body.messages or ()), **({"tools": tools} if tools else {})}


def generate_request(body: GenerateBody, spec: ModelSpec) -> tuple[str, dict[str, Any]]:
    """Path and body: a user message through the chat template, or the bare text for raw and for models without one."""
    asked = _asked(body, spec)
    if body.raw or spec.task == "completion":
        if body.system:
            raise BodyInvalid(f"{body.model} has no chat template, and so no place for system", param="system")
        return COMPLETIONS, {**asked, "prompt": body.prompt}
    system = [{"role": "system", "content": body.system}] if body.system else []
    return CHAT, {**asked, "messages": [*system, {"role": "user", "content": body.prompt}]}


def embed_request(body: EmbedBody, spec: ModelSpec) -> dict[str, Any]:
    """The body for `EMBEDDINGS`; `truncate`, which OpenAI has not, is Ollama's default."""
    asked: dict[str, Any] = {"model": spec.id, "input": body.input, "encoding_format": "float"}
    asked["truncate"] = body.truncate is not False
    return asked if body.dimensions is None else {**asked, "dimensions": body.dimensions}


def _asked(body: ChatBody | GenerateBody, spec: ModelSpec) -> dict[str, Any]:
    asked: dict[str, Any] = {"model": spec.id, **_sampling(body.options or Options())}
    if body.format is not None:
        asked["response_format"] = _response_format(body.format)
    if body.is_streamed:
        asked |= {"stream": True, "stream_options": {"include_usage": True}}
    return asked


def _sampling(options: Options) -> dict[str, Any]:
    """Below 0 a seed means a new one each time, and a length as much as the model has to say: the same as none."""
    given = {
        "temperature": options.temperature,
        "top_p": options.top_p,
        "top_k": options.top_k,
        "seed": None if options.seed is None or options.seed < 0 else options.seed,
        "max_tokens": None if options.num_predict is None or options.num_predict <= 0 else options.num_predict,
        "stop": options.stop or None,
    }
    return {name: value for name, value in given.items() if value is not None}


def _response_format(wanted: str | dict[str, Any]) -> dict[str, Any]:
    if isinstance(wanted, str):
        return {"type": "json_object"}
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": wanted}}


def _messages(messages: Iterable[Message]) -> list[dict[str, Any]]:
    """Calls of tools have ids in the OpenAI API, and results name them; Ollama goes by name and order."""
    worded: list[dict[str, Any]] = []
    unanswered: list[tuple[str, str]] = []
    for message in messages:
        one: dict[str, Any] = {"role": message.role, "content": message.content or ""}
        if message.tool_calls:
            ids = [call.id or f"call_{len(worded)}_{index}" for index, call in enumerate(message.tool_calls)]
            one["tool_calls"] = [
                {
                    "id": call_id,
                    "type": "function",
                    "function": {"name": call.function.name, "arguments": json.dumps(call.function.arguments)},
                }
                for call_id, call in zip(ids, message.tool_calls, strict=True)
            ]
            unanswered += [(call.function.name, id) for call, id in zip(message.tool_calls, ids, strict=True)]
        if message.role == "tool":
            one["tool_call_id"] = message.tool_call_id or _take_id(unanswered, message.tool_name)
        worded.append(one)
    return worded


def _take_id(unanswered: list[tuple[str, str]], name: str | None) -> str:
    """The id of the first call without a result, of this tool where it is named."""
    found = next((call for call in unanswered if name in (None, call[0])), None)
    if found is None:
        return name or ""
    unanswered.remove(found)
    return found[1]
