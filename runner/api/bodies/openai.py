"""The bodies of the OpenAI API: known parameters are checked or refused by name, unknown ones ignored.

Clients such as LangChain send many parameters at their defaults; those have no effect and pass. An unsupported one that
would change the answer must not pass in silence.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from runner.api.bodies.native import ResponseFormat, SamplingBody, StrictBody, read_object, validate
from runner.api.bodies.tools import NamedChoice, ToolBody, ToolCallBody, ToolChoice, Tools
from runner.api.errors import RequestRefused
from runner.engine import Constraints, GenerationRequest, Message, PartialSampling, Tool

# Parameter → the values, besides null, that have no effect.
_ANY_ROUTE: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "logit_bias": ({},),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
}
_CHAT_ONLY: dict[str, tuple[Any, ...]] = {
    "logprobs": (False,),
    "top_logprobs": (0,),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
}
CHAT_NEUTRAL = {**_ANY_ROUTE, **_CHAT_ONLY}
# 0 is not a default of `logprobs` here: it asks for that of the chosen token.
COMPLETION_NEUTRAL = {**_ANY_ROUTE, "logprobs": (), "echo": (False,), "best_of": (1,), "suffix": ("",)}
_MESSAGE_NEUTRAL: dict[str, tuple[Any, ...]] = {"function_call": (), "audio": ()}


class _Lenient(StrictBody):
    model_config = ConfigDict(extra="ignore")


class StreamOptions(_Lenient):
    """What a stream reports beside the text."""

    include_usage: bool | None = None


class _OpenAIBody(SamplingBody):
    model_config = ConfigDict(extra="ignore")

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    # OpenAI has it only for chats; others also have it for completions.
    response_format: ResponseFormat | None = None

    @property
    def schema_of_answer(self) -> Any:
        """The JSON schema of the answer; None for free text."""
        return self.response_format and self.response_format.schema_of_answer()

    @property
    def includes_usage(self) -> bool:
        """Whether a stream ends with a chunk that reports the usage."""
        return bool(self.stream_options and self.stream_options.include_usage)


def _join_parts(content: Any) -> Any:
    """Join parts of text to one text; leave anything but a list for the check of a text."""
    if not isinstance(content, list):
        return content
    texts = []
    for index, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind != "text" or not isinstance(part.get("text"), str):
            what = f"is of type {kind!r}" if isinstance(kind, str) and kind != "text" else "has an unknown shape"
            raise ValueError(f'part {index} {what}; this model reads only {{"type": "text", "text": "…"}}')
        texts.append(part["text"])
    if not texts:
        raise ValueError("has no parts; write some text")
    return "\n".join(texts)


class ChatMessage(_Lenient):
    """One turn: its content is a text or a list of text parts; a turn that calls tools may have none."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Annotated[str, BeforeValidator(_join_parts)]
    tool_calls: list[ToolCallBody] | None = None
    tool_call_id: Annotated[str, Field(max_length=256)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _default_content_of_calls(cls, turn: Any) -> Any:
        if isinstance(turn, dict) and turn.get("role") == "assistant" and turn.get("tool_calls"):
            return {**turn, "content": turn.get("content") or ""}
        return turn

    @field_validator("tool_calls")
    @classmethod
    def _require_assistant(cls, calls: list[ToolCallBody] | None, info: ValidationInfo) -> list[ToolCallBody] | None:
        if calls and info.data.get("role") != "assistant":
            raise ValueError("are only for turns of the role assistant")
        return calls

    def to_message(self) -> Message:
        """Return the same for the engine."""
        return Message(
            # Chat templates know only the older name of this role.
            role="system" if self.role == "developer" else self.role,
            content=self.content,
            tool_calls=tuple(call.to_call() for call in self.tool_calls or ()),
            tool_call_id=self.tool_call_id,
        )


class ChatBody(_OpenAIBody):
    """`POST /v1/chat/completions`."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    tools: Tools | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None

    @field_validator("tools")
    @classmethod
    def _require_unique_names(cls, tools: list[ToolBody] | None) -> list[ToolBody] | None:
        names = [tool.function.name for tool in tools or ()]
        if len(set(names)) < len(names):
            raise ValueError("has several tools with the same name")
        return tools

    @field_validator("tool_choice")
    @classmethod
    def _require_known_tool(cls, choice: ToolChoice | None, info: ValidationInfo) -> ToolChoice | None:
        names = [tool.function.name for tool in info.data.get("tools") or ()]
        if choice == "required" and not names:
            raise ValueError("requires a call, but there are no tools")
        if isinstance(choice, NamedChoice) and choice.function.name not in names:
            raise ValueError(f"names {choice.function.name}, which is not one of the tools")
        return choice

    @property
    def callable_tools(self) -> tuple[Tool, ...]:
        """The tools that the model may call; none if the client forbids calls."""
        return () if self.tool_choice == "none" else tuple(tool.to_tool() for tool in self.tools or ())

    def sampling(self) -> PartialSampling:
        """Return the same for the engine; the newer name of `max_tokens` takes precedence."""
        return replace(super().sampling(), max_tokens=self.max_completion_tokens or self.max_tokens)

    def to_request(self) -> GenerationRequest:
        """Return the same for the engine."""
        tools = self.callable_tools
        must_call: tuple[str, ...] = ()
        if isinstance(self.tool_choice, NamedChoice):
            must_call = (self.tool_choice.function.name,)
        elif self.tool_choice == "required":
            must_call = tuple(tool.name for tool in tools)
        return GenerationRequest(
            messages=tuple(message.to_message() for message in self.messages),
            sampling=self.sampling(),
            constraints=Constraints(
                schema=self.schema_of_answer,
                tools=tools,
                must_call=must_call,
                # Only if the client asks for them: a small model that may make more calls makes more.
                parallel_calls=bool(self.parallel_tool_calls) and not isinstance(self.tool_choice, NamedChoice),
            ),
        )


def _single_prompt(prompt: Any) -> Any:
    if not isinstance(prompt, list):
        return prompt
    if len(prompt) != 1 or not isinstance(prompt[0], str):
        raise ValueError("write one text; several prompts, and prompts of token numbers, are not supported")
    return prompt[0]


class CompletionBody(_OpenAIBody):
    """`POST /v1/completions`: the prompt goes to the model as it is, without its chat template."""

    prompt: Annotated[str, Field(min_length=1), BeforeValidator(_single_prompt)]

    def to_request(self) -> GenerationRequest:
        """Return the same for the engine."""
        constraints = Constraints(schema=self.schema_of_answer)
        return GenerationRequest(prompt=self.prompt, raw=True, sampling=self.sampling(), constraints=constraints)


def parse_chat_body(data: bytes) -> ChatBody:
    """Return the body; raise RequestRefused with the parameter at fault."""
    raw = read_object(data)
    _refuse_unsupported(raw, CHAT_NEUTRAL)
    messages = raw.get("messages")
    for index, message in enumerate(messages if isinstance(messages, list) else ()):
        if isinstance(message, dict):
            _refuse_unsupported(message, _MESSAGE_NEUTRAL, f"messages.{index}.")
    return validate(ChatBody, raw)


def parse_completion_body(data: bytes) -> CompletionBody:
    """Return the body; raise RequestRefused with the parameter at fault."""
    raw = read_object(data)
    _refuse_unsupported(raw, COMPLETION_NEUTRAL)
    return validate(CompletionBody, raw)


def _refuse_unsupported(raw: Mapping[str, Any], neutral: Mapping[str, tuple[Any, ...]], prefix: str = "") -> None:
    for name, harmless in neutral.items():
        value = raw.get(name)
        if value is not None and not any(_same(value, one) for one in harmless):
            param = f"{prefix}{name}"
            default = f", except its default ({json.dumps(harmless[0])})" if harmless else ""
            message = f"{param} is not supported{default}; leave it out."
            raise RequestRefused(message, code="unsupported_parameter", param=param)


def _same(value: Any, other: Any) -> bool:
    # In Python, True is 1 and False is 0.
    return bool(value == other) and isinstance(value, bool) == isinstance(other, bool)
