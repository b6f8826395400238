"""Tools in the OpenAI API's bodies: which the model may call, which it must call, and earlier calls."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, field_validator

from runner.api.bodies.native import StrictBody
from runner.engine import Tool, ToolCall

MAX_TOOLS = 128
Name = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]


class _Lenient(StrictBody):
    model_config = ConfigDict(extra="ignore")


class FunctionBody(_Lenient):
    """A tool's purpose, and the schema of its arguments."""

    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolBody(_Lenient):
    """A tool that the model may call."""

    type: Literal["function"]
    function: FunctionBody

    def to_tool(self) -> Tool:
        """Return the same for the engine."""
        function = self.function
        return Tool(name=function.name, description=function.description or "", parameters=function.parameters or {})


class _NamedFunction(_Lenient):
    name: Name


class NamedChoice(_Lenient):
    """The one function that the model must call."""

    type: Literal["function"]
    function: _NamedFunction


def _as_choice(value: Any) -> Any:
    # Checked here and not by a union, whose errors name every member.
    if isinstance(value, dict):
        return NamedChoice.model_validate(value)
    if value not in ("none", "auto", "required"):
        raise ValueError('write "none", "auto", "required" or {"type": "function", "function": {"name": …}}')
    return value


ToolChoice = Annotated[Literal["none", "auto", "required"] | NamedChoice, BeforeValidator(_as_choice)]
Tools = Annotated[list[ToolBody], Field(max_length=MAX_TOOLS)]


class _CalledFunction(_Lenient):
    name: Name
    arguments: str

    @field_validator("arguments")
    @classmethod
    def _require_json_object(cls, text: str) -> str:
        try:
            if isinstance(json.loads(text or "{}"), dict):
                return text
        except (ValueError, RecursionError):
            pass
        raise ValueError("must be a JSON object as text")


class ToolCallBody(_Lenient):
    """A call in an earlier turn."""

    id: Annotated[str, Field(max_length=256)] = ""
    type: Literal["function"] = "function"
    function: _CalledFunction

    def to_call(self) -> ToolCall:
        """Return the same for the engine."""
        return ToolCall(id=self.id, name=self.function.name, arguments=json.loads(self.function.arguments or "{}"))
