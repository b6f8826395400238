"""Bodies checked strictly, `POST /inference` first: a bool is no number, nor is NaN, and unknown fields are named."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, NoReturn, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from runner.api.errors import Refused
from runner.engine import Constraints, GenerationRequest, Message, PartialSampling

# The controller's own bound is lower; this one holds for who calls a runner by its port.
MAX_BODY_BYTES = 16 * 1024 * 1024
MAX_STOPS = 8


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


StopStrings = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=1000)]], Field(max_length=MAX_STOPS), BeforeValidator(_as_list)
]


class StrictBody(BaseModel):
    """No coercion: what has the wrong type is refused, not guessed at."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, hide_input_in_errors=True)


class SamplingBody(StrictBody):
    """How to sample, for every route that generates; what is left out takes the configured or the model's default."""

    max_tokens: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    stop: StopStrings | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None

    def sampling(self) -> PartialSampling:
        """The same for the engine."""
        return PartialSampling(
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            stop=None if self.stop is None else tuple(self.stop),
            seed=self.seed,
        )


class JsonSchemaBody(StrictBody):
    """A schema by name; `strict` changes nothing here, every schema is kept."""

    model_config = ConfigDict(extra="ignore")

    name: Annotated[str, Field(min_length=1, max_length=256)]
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    strict: bool | None = None


class ResponseFormat(StrictBody):
    """What the answer has to be: free text, some JSON object, or a value of a schema."""

    model_config = ConfigDict(extra="ignore")

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaBody | None = None

    @model_validator(mode="after")
    def _schema_where_named(self) -> ResponseFormat:
        if self.type == "json_schema" and self.json_schema is None:
            raise ValueError('write the schema in "json_schema": {"name": …, "schema": {…}}')
        return self

    def schema_of_answer(self) -> Any:
        """The JSON schema of the answer; None for free text."""
        if self.type == "json_schema" and self.json_schema is not None:
            return self.json_schema.schema_
        return {"type": "object"} if self.type == "json_object" else None


class MessageBody(StrictBody):
    """One turn; what a role means is the chat template's business."""

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
    def _prompt_or_messages(self) -> InferenceBody:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError('write either "prompt" or "messages"')
        if self.raw and self.prompt is None:
            raise ValueError('"raw" goes with "prompt", not with "messages"')
        return self

    def to_request(self) -> GenerationRequest:
        """The same for the engine."""
        return GenerationRequest(
            prompt=self.prompt,
            messages=tuple(Message(role=message.role, content=message.content) for message in self.messages or ()),
            raw=self.raw,
            sampling=self.sampling(),
            constraints=Constraints(schema=self.response_format and self.response_format.schema_of_answer()),
        )


def parse_inference_body(data: bytes) -> InferenceBody:
    """The body, or Refused with the field at fault."""
    return checked(InferenceBody, read_object(data))


def read_object(data: bytes) -> dict[str, Any]:
    """The JSON object in these bytes; raises Refused for anything else."""
    try:
        # Decoded here because json would also guess UTF-16.
        raw = json.loads(data.decode("utf-8"), parse_constant=_refuse_constant)
    except RecursionError:
        raise Refused("The body is nested too deeply.", code="invalid_body") from None
    except ValueError as error:
        raise Refused(f"The body is no JSON: {_brief(error)}.", code="invalid_body") from None
    if not isinstance(raw, dict):
        raise Refused("The body must be a JSON object.", code="invalid_body")
    return raw


B = TypeVar("B", bound=StrictBody)


def checked(kind: type[B], raw: dict[str, Any]) -> B:
    """The object as a body of this kind; raises Refused with the field at fault."""
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        raise _refusal(kind, error) from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _brief(error: ValueError) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start} is not UTF-8"
    return str(error)


def _refusal(kind: type[StrictBody], error: ValidationError) -> Refused:
    first: Any = error.errors(include_url=False, include_input=False)[0]
    name = ".".join(str(part) for part in first["loc"]) or None
    if first["type"] == "extra_forbidden":
        known = MessageBody.model_fields if len(first["loc"]) > 1 else kind.model_fields
        return Refused(f"Unknown field {name}; known are: {', '.join(sorted(known))}.", code="invalid_body", param=name)
    text = str(first["msg"]).removeprefix("Value error, ")
    return Refused(f"{name}: {text}." if name else f"{text[0].upper()}{text[1:]}.", code="invalid_body", param=name)
