"""Bodies of Ollama's API: what is supported is checked, the rest is ignored.

A field that would change the answer and is not supported is refused by name, unless it is empty or false.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AliasChoices, BeforeValidator, ConfigDict, Field, model_validator

from controller.api.bodies import Body, KeepAlive, Name


def _refuse(value: Any) -> None:
    if value:
        raise ValueError("is not supported here; leave it out")


def _format(value: Any) -> Any:
    if value not in (None, "", "json") and not isinstance(value, dict):
        raise ValueError('write "json" or a JSON schema')
    return value or None


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Unsupported = Annotated[Any, AfterValidator(_refuse)]
Format = Annotated[Literal["json"] | dict[str, Any] | None, BeforeValidator(_format)]


class _Lenient(Body):
    model_config = ConfigDict(extra="ignore")


class NamedBody(_Lenient):
    """A body that names a model; `name` is what older clients call it."""

    model: Annotated[Name, Field(validation_alias=AliasChoices("model", "name"))]


class Options(_Lenient):
    """The sampling that every engine supports; other options, such as `num_ctx`, belong to the engine's start."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    num_predict: int | None = None
    stop: Annotated[list[str] | None, BeforeValidator(_as_list)] = None


class _GeneratingBody(NamedBody):
    stream: bool | None = None
    options: Options | None = None
    format: Format = None
    keep_alive: KeepAlive = None
    think: Unsupported = None
    logprobs: Unsupported = None
    top_logprobs: Unsupported = None

    @property
    def is_streamed(self) -> bool:
        """Whether the answer is streamed, which it is by default."""
        return self.stream is not False


class GenerateBody(_GeneratingBody):
    """`POST /api/generate`."""

    prompt: str | None = None
    system: str | None = None
    raw: bool | None = None
    template: Unsupported = None
    suffix: Unsupported = None
    context: Unsupported = None
    images: Unsupported = None

    @model_validator(mode="after")
    def _raw_is_all(self) -> GenerateBody:
        if self.raw and self.system:
            raise ValueError("raw sends the prompt unchanged, and has no place for system; put it into the prompt")
        return self


class CalledFunction(_Lenient):
    """A function with its arguments."""

    name: str
    arguments: dict[str, Any]


class ToolCall(_Lenient):
    """A call that the model made."""

    id: str | None = None
    function: CalledFunction


class Message(_Lenient):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    images: Unsupported = None
    tool_calls: list[ToolCall] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


class ChatBody(_GeneratingBody):
    """`POST /api/chat`."""

    messages: list[Message] | None = None
    tools: list[dict[str, Any]] | None = None


class EmbedBody(NamedBody):
    """`POST /api/embed`."""

    input: str | list[str] | None = None
    dimensions: int | None = None
    truncate: bool | None = None
    keep_alive: KeepAlive = None


class EmbeddingsBody(NamedBody):
    """`POST /api/embeddings`."""

    prompt: str | None = None
    keep_alive: KeepAlive = None


class PullBody(NamedBody):
    """`POST /api/pull`."""

    stream: bool | None = None
