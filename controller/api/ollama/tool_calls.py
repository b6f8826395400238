"""Calls of tools: the OpenAI API writes arguments as text and streams it in bits, Ollama as an object. Pure."""

from __future__ import annotations

import json
from typing import Any

from controller.errors import UpstreamInvalid


class CallCollector:
    """Puts streamed calls together from their parts."""

    def __init__(self) -> None:
        self._calls: dict[int, dict[str, Any]] = {}

    def add(self, deltas: list[dict[str, Any]]) -> bool:
        """Add parts of calls; return whether there were any. Raises UpstreamInvalid for what is no part of a call."""
        try:
            for delta in deltas:
                call = self._calls.setdefault(int(delta.get("index") or 0), {"function": {"name": "", "arguments": ""}})
                part = delta.get("function") or {}
                for key in ("name", "arguments"):
                    call["function"][key] += part.get(key) or ""
                if delta.get("id"):
                    call["id"] = delta["id"]
        except (AttributeError, TypeError, ValueError) as exc:
            raise UpstreamInvalid("the model sent a tool call of no known shape") from exc
        return bool(deltas)

    def whole(self) -> list[dict[str, Any]]:
        """Return the calls so far, in their order, as an answer that is not streamed has them."""
        return [self._calls[index] for index in sorted(self._calls)]


def ollama_calls(calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the calls in Ollama's form. Raises UpstreamInvalid if arguments are no JSON object."""
    try:
        return [_ollama_call(call) for call in calls]
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as exc:
        raise UpstreamInvalid("the model's tool call is not usable: its arguments are no JSON object") from exc


def _ollama_call(call: dict[str, Any]) -> dict[str, Any]:
    function = call["function"]
    arguments = json.loads(function["arguments"] or "{}")
    if not isinstance(arguments, dict):
        raise ValueError("arguments are an object")
    known_id = {"id": call["id"]} if call.get("id") else {}
    return {**known_id, "function": {"name": function["name"], "arguments": arguments}}
