"""The input of a model's chat template, and what the template's text shows about the model."""

from __future__ import annotations

import re
from typing import Any

from runner.engine import GenerationRequest, Message, PromptInvalid, ToolSyntax

# What opens a tool call in the text of models of each form.
HERMES, MISTRAL, LLAMA = "<tool_call>", "[TOOL_CALLS]", "<|python_tag|>"


def uses_template(request: GenerationRequest, *, has_template: bool) -> bool:
    """Tell whether the request goes through the chat template. Raises PromptInvalid for messages without a template."""
    if request.prompt is not None and (request.raw or not has_template):
        return False
    if not has_template:
        raise PromptInvalid(
            "This model has no chat template; send a prompt, or give it one (`chat_template` in models.yaml).",
            param="messages",
        )
    return True


def template_messages(request: GenerationRequest) -> list[dict[str, Any]]:
    """Return the turns as templates read them; a prompt is one turn of the user."""
    if not request.messages:
        return [{"role": "user", "content": request.prompt or ""}]
    names = {call.id: call.name for message in request.messages for call in message.tool_calls}
    return [_turn(message, names) for message in request.messages]


def template_tools(request: GenerationRequest) -> list[dict[str, Any]] | None:
    """Return the tools as templates read them; None if there are none."""
    return [
        {
            "type": "function",
            "function": {"name": tool.name, "description": tool.description, "parameters": tool.parameters},
        }
        for tool in request.constraints.tools
    ] or None


def tool_syntax(template: str) -> ToolSyntax | None:
    """Tell how a model with this template writes tool calls; None if it writes none, or in an unknown form."""
    if not re.search(r"\btools\b", template):
        return None
    if HERMES in template:
        return "hermes"
    if MISTRAL in template:
        return "mistral"
    return "llama" if re.search(r'\\?"parameters\\?"', template) else None


def _turn(message: Message, names: dict[str, str]) -> dict[str, Any]:
    turn: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        turn["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        turn["tool_call_id"] = message.tool_call_id
        if message.tool_call_id in names:
            turn["name"] = names[message.tool_call_id]
    return turn
