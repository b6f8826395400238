"""The bodies of the OpenAI API: known parameters checked or refused by name, unknown ones ignored.

Clients such as LangChain send many parameters at their defaults; those change nothing and pass. One that would change
the answer and is not supported must not pass in silence.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from runner.api.bodies.native import ResponseFormat, SamplingBody, StrictBody, checked, read_object
from runner.api.bodies.tools import NamedChoice, ToolBody, ToolCallBody, ToolChoice, Tools
from runner.api.errors import Refused
from runner.engine import Constraints, GenerationRequest, Message, PartialSampling, Tool

# Parameter → the values, besides null, that ask for nothing.
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
# 0 is no default of `logprobs` here: it asks for the chosen token's.
COMPLETION_NEUTRAL = {**_ANY_ROUTE, "logprobs": (), "echo": (False,), "best_of": (1,), "suffix": ("",)}
_MESSAGE_NEUTRAL: dict[str, tuple[Any, ...]] = {"function_call": (), "audio": ()}


class _Lenient(StrictBody):
    model_config = ConfigDict(extra="ignore")


class StreamOptions(_Lenient):
    """What a stream tells beside the text."""

    include_usage: bool | None = None


class _OpenAIBody(SamplingBody):
    model_config = ConfigDict(extra="ignore")

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    # OpenAI has it for chats alone, others for completions, too.
    response_format: ResponseFormat | None = None

    @property
    def schema_of_answer(self) -> Any:
        """The JSON schema of the answer; None for free text."""
        return self.response_format and self.response_format.schema_of_answer()

    @property
    def includes_usage(self) -> bool:
        """Whether a stream ends with a chunk that tells the usage."""
        return bool(self.stream_options and self.stream_options.include_usage)


def _joined(content: Any) -> Any:
    """Parts of text as one text; what is no list is left to be checked as text."""
    if not isinstance(content, list):
        return content
    texts = []
    for index, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind != "text" or not isinstance(part.get("text"), str):
            told = f"of type {kind!r}" if isinstance(kind, str) and kind != "text" else "of no known shape"
            raise ValueError(f'part {index} is {told}; this model reads {{"type": "text", "text": "…"}} alone')
        texts.append(part["text"])
    if not texts:
        raise ValueError("has no parts; write some text")
    return "\n".join(texts)


class ChatMessage(_Lenient):
    """One turn, its content a text or a list of text parts; one that calls tools may have none."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Annotated[str, BeforeValidator(_joined)]
    tool_calls: list[ToolCallBody] | None = None
    tool_call_id: Annotated[str, Field(max_length=256)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _content_of_calls(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("role") == "assistant" and given.get("tool_calls"):
            return {**given, "content": given.get("content") or ""}
        return given

    @field_validator("tool_calls")
    @classmethod
    def _of_the_model(cls, calls: list[ToolCallBody] | None, info: ValidationInfo) -> list[ToolCallBody] | None:
        if calls and info.data.get("role") != "assistant":
            raise ValueError("belong to the role assistant")
        return calls

    def to_message(self) -> Message:
        """The same for the engine."""
        return Message(
            # Chat templates know no developer, which is the newer name of the same role.
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
    def _one_of_each_name(cls, tools: list[ToolBody] | None) -> list[ToolBody] | None:
        names = [tool.function.name for tool in tools or ()]
        if len(set(names)) < len(names):
            raise ValueError("has several tools of one name")
        return tools

    @field_validator("tool_choice")
    @classmethod
    def _among_the_tools(cls, choice: ToolChoice | None, info: ValidationInfo) -> ToolChoice | None:
        names = [tool.function.name for tool in info.data.get("tools") or ()]
        if choice == "required" and not names:
            raise ValueError("asks for a call, and there are no tools")
        if isinstance(choice, NamedChoice) and choice.function.name not in names:
            raise ValueError(f"names {choice.function.name}, which is not among the tools")
        return choice

    @property
    def callable_tools(self) -> tuple[Tool, ...]:
        """What the model may call; nothing where the client says so."""
        return () if self.tool_choice == "none" else tuple(tool.to_tool() for tool in self.tools or ())

    def sampling(self) -> PartialSampling:
        """With the newer name of `max_tokens` before the older one."""
        return replace(super().sampling(), max_tokens=self.max_completion_tokens or self.max_tokens)

    def to_request(self) -> GenerationRequest:
        """The same for the engine."""
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
                # Only where it is asked for: a small model that may go on calling does so.
                parallel_calls=bool(self.parallel_tool_calls) and not isinstance(self.tool_choice, NamedChoice),
            ),
        )


def _only_one(prompt: Any) -> Any:
    if not isinstance(prompt, list):
        return prompt
    if len(prompt) != 1 or not isinstance(prompt[0], str):
        raise ValueError("write one text; several prompts, and prompts of token numbers, are not supported")
    return prompt[0]


class CompletionBody(_OpenAIBody):
    """`POST /v1/completions`: the prompt goes to the model as it is, without its chat template."""

    prompt: Annotated[str, Field(min_length=1), BeforeValidator(_only_one)]

    def to_request(self) -> GenerationRequest:
        """The same for the engine."""
        constraints = Constraints(schema=self.schema_of_answer)
        return GenerationRequest(prompt=self.prompt, raw=True, sampling=self.sampling(), constraints=constraints)


def parse_chat_body(data: bytes) -> ChatBody:
    """The body, or Refused with the parameter at fault."""
    raw = read_object(data)
    _refuse_unsupported(raw, CHAT_NEUTRAL)
    messages = raw.get("messages")
    for index, message in enumerate(messages if isinstance(messages, list) else ()):
        if isinstance(message, dict):
            _refuse_unsupported(message, _MESSAGE_NEUTRAL, f"messages.{index}.")
    return checked(ChatBody, raw)


def parse_completion_body(data: bytes) -> CompletionBody:
    """The body, or Refused with the parameter at fault."""
    raw = read_object(data)
    _refuse_unsupported(raw, COMPLETION_NEUTRAL)
    return checked(CompletionBody, raw)


def _refuse_unsupported(raw: Mapping[str, Any], neutral: Mapping[str, tuple[Any, ...]], prefix: str = "") -> None:
    for name, harmless in neutral.items():
        value = raw.get(name)
        if value is not None and not any(_same(value, one) for one in harmless):
            shown = f"{prefix}{name}"
            rest = f" beyond its default ({json.dumps(harmless[0])})" if harmless else ""
            raise Refused(f"{shown} is not supported{rest}; leave it out.", code="unsupported_parameter", param=shown)


def _same(value: Any, other: Any) -> bool:
    # To Python, True is 1 and False is 0.
    return bool(value == other) and isinstance(value, bool) == isinstance(other, bool)
