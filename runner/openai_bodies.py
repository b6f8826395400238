"""The bodies of the OpenAI API: known parameters checked or refused by name, unknown ones ignored.

Clients such as LangChain send many parameters at their defaults; those change nothing and pass. One that would change
the answer and is not supported must not pass in silence.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field

from runner.bodies import SamplingBody, StrictBody, checked, read_object
from runner.engine import GenerationRequest, Message, PartialSampling
from runner.errors import Refused

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
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
}
CHAT_NEUTRAL = {**_ANY_ROUTE, **_CHAT_ONLY}
# 0 is no default of `logprobs` here: it asks for the chosen token's.
COMPLETION_NEUTRAL = {**_ANY_ROUTE, "logprobs": (), "echo": (False,), "best_of": (1,), "suffix": ("",)}
_MESSAGE_NEUTRAL: dict[str, tuple[Any, ...]] = {"tool_calls": ([],), "function_call": (), "audio": ()}


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
    """One turn, its content a text or a list of text parts."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Annotated[str, BeforeValidator(_joined)]


class ChatBody(_OpenAIBody):
    """`POST /v1/chat/completions`."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None

    def sampling(self) -> PartialSampling:
        """With the newer name of `max_tokens` before the older one."""
        return replace(super().sampling(), max_tokens=self.max_completion_tokens or self.max_tokens)

    def to_request(self) -> GenerationRequest:
        """The same for the engine."""
        # Chat templates know no developer, which is the newer name of the same role.
        turns = ((("system" if one.role == "developer" else one.role), one.content) for one in self.messages)
        messages = tuple(Message(role=role, content=content) for role, content in turns)
        return GenerationRequest(messages=messages, sampling=self.sampling())


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
        return GenerationRequest(prompt=self.prompt, raw=True, sampling=self.sampling())


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
