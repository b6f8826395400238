"""The body of `POST /inference`, and strict checks for all: bools are not numbers, and errors name unknown fields."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, NoReturn, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from runner.api.errors import RequestRefused
from runner.engine import Constraints, GenerationRequest, Message, PartialSampling
from runner.engines.memory import MIB

# The controller's own bound is lower; this one is for clients that call a runner by its port.
MAX_BODY_BYTES = 16 * MIB
MAX_STOPS = 8


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


StopStrings = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=1000)]], Field(max_length=MAX_STOPS), BeforeValidator(_as_list)
]


class StrictBody(BaseModel):
    """A body without coercion: a value of the wrong type is refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, hide_input_in_errors=True)


class SamplingBody(StrictBody):
    """How to sample, for every route that generates text; parameters left out get the configured or model's default."""

    max_tokens: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    stop: StopStrings | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None

    def sampling(self) -> PartialSampling:
        """Return the same for the engine."""
        return PartialSampling(
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            stop=None if self.stop is None else tuple(self.stop),
            seed=self.seed,
        )


class JsonSchemaBody(StrictBody):
    """A schema with a name; `strict` has no effect here, since answers keep to every schema."""

    model_config = ConfigDict(extra="ignore")

    name: Annotated[str, Field(min_length=1, max_length=256)]
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    strict: bool | None = None


class ResponseFormat(StrictBody):
    """What the answer must be: free text, any JSON object, or a value of a schema."""

    model_config = ConfigDict(extra="ignore")

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaBody | None = None

    @model_validator(mode="after")
    def _require_schema(self) -> ResponseFormat:
        if self.type == "json_schema" and self.json_schema is None:
            raise ValueError('write the schema in "json_schema": {"name": …, "schema": {…}}')
        return self

    def schema_of_answer(self) -> Any:
        """Return the JSON schema of the answer; None for free text."""
        if self.type == "json_schema" and self.json_schema is not None:
            return self.json_schema.schema_
        return {"type": "object"} if self.type == "json_object" else None


class MessageBody(StrictBody):
    """One turn; the chat template decides what a role means."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str


class InferenceBody(SamplingBody):
    """`POST /inference`."""

    prompt: Annotated[str, Field(min_length=1)] | None = None
    messages: Annotated[list[MessageBody], Field(min_length=1)] | None = None
    raw: bool = False
    response_format: ResponseFormat | None = None
    stream: bool = False

    @model_validator(mode="after")
    def _require_prompt_or_messages(self) -> InferenceBody:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError('write either "prompt" or "messages"')
        if self.raw and self.prompt is None:
            raise ValueError('"raw" goes with "prompt", not with "messages"')
        return self

    def to_request(self) -> GenerationRequest:
        """Return the same for the engine."""
        return GenerationRequest(
            prompt=self.prompt,
            messages=tuple(Message(role=message.role, content=message.content) for message in self.messages or ()),
            raw=self.raw,
            sampling=self.sampling(),
            constraints=Constraints(schema=self.response_format and self.response_format.schema_of_answer()),
        )


def parse_inference_body(data: bytes) -> InferenceBody:
    """Return the body; raise RequestRefused with the field at fault."""
    return validate(InferenceBody, read_object(data))


def read_object(data: bytes) -> dict[str, Any]:
    """Return the JSON object in these bytes; raise RequestRefused for anything else."""
    try:
        # Decoded here because json would also accept UTF-16.
        raw = json.loads(data.decode("utf-8"), parse_constant=_refuse_constant)
    except RecursionError:
        raise RequestRefused("The body is nested too deeply.", code="invalid_body") from None
    except ValueError as error:
        raise RequestRefused(f"The body is not valid JSON: {_brief(error)}.", code="invalid_body") from None
    if not isinstance(raw, dict):
        raise RequestRefused("The body must be a JSON object.", code="invalid_body")
    return raw


B = TypeVar("B", bound=StrictBody)


def validate(kind: type[B], raw: dict[str, Any]) -> B:
    """Return the object as a body of this kind; raise RequestRefused with the field at fault."""
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        raise _refusal(kind, error) from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _brief(error: ValueError) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start} is not UTF-8"
    return str(error)


def _refusal(kind: type[StrictBody], error: ValidationError) -> RequestRefused:
    first: Any = error.errors(include_url=False, include_input=False)[0]
    name = ".".join(str(part) for part in first["loc"]) or None
    if first["type"] == "extra_forbidden":
        fields = MessageBody.model_fields if len(first["loc"]) > 1 else kind.model_fields
        message = f"Unknown field {name}; the known fields are: {', '.join(sorted(fields))}."
        return RequestRefused(message, code="invalid_body", param=name)
    text = str(first["msg"]).removeprefix("Value error, ")
    message = f"{name}: {text}." if name else f"{text[0].upper()}{text[1:]}."
    return RequestRefused(message, code="invalid_body", param=name)
