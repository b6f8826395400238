"""Request bodies: received whole, and read from their raw bytes."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Annotated, Any, Literal, TypeVar

from flask import current_app, request
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator
from werkzeug.exceptions import ClientDisconnected, RequestEntityTooLarge

from controller.errors import BodyInvalid, OrchestrarError, Overloaded, RequestTimeout
from controller.registry.file.quantities import duration_s
from controller.server.client_connection import BODY_ERRORS, NoReaderLeft

Name = Annotated[str, Field(min_length=1, max_length=256)]
# A runner bounds these by its model; here they only have to be sane.
MaxTokens = Annotated[int, Field(ge=1, le=1_000_000)]
StopText = Annotated[str, Field(min_length=1, max_length=256)]


def _duration_s(value: Any) -> Any:
    """Read a text as models.yaml reads durations; below 0 means for ever."""
    if not isinstance(value, str):
        return value
    seconds = -1.0 if value.startswith("-") else duration_s(value)
    if seconds is None:
        raise ValueError('write a duration such as "5m" or 300, 0 to stop right after, -1 to keep for ever')
    return seconds


# Seconds; 0 = stop as soon as no request uses the model, below 0 = for ever, None = as before.
KeepAlive = Annotated[float | None, BeforeValidator(_duration_s)]


class Body(BaseModel):
    """A JSON object without unknown fields."""

    # pydantic would keep the last 16,384 short texts that clients sent.
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, cache_strings="keys")


class ModelBody(Body):
    """A body that names a model, by id or alias."""

    model_id: Name


class RunBody(ModelBody):
    """`POST /run`."""

    wait: bool = True


class PullBody(ModelBody):
    """`POST /pull`."""

    wait: bool = True
    stream: bool = False

    @model_validator(mode="after")
    def _streams_only_what_it_waits_for(self) -> PullBody:
        if self.stream and not self.wait:
            raise ValueError("stream goes with wait; leave one of them out")
        return self


class Message(Body):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str


class InferenceBody(ModelBody):
    """`POST /inference`: a prompt or messages, and how to sample."""

    prompt: Annotated[str, Field(min_length=1)] | None = None
    messages: Annotated[list[Message], Field(min_length=1)] | None = None
    raw: bool | None = None
    max_tokens: MaxTokens | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    stop: StopText | Annotated[list[StopText], Field(max_length=8)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    # The runner checks what is in it.
    response_format: dict[str, Any] | None = None
    stream: bool = False
    keep_alive: KeepAlive = None

    @model_validator(mode="after")
    def _one_input(self) -> InferenceBody:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give either prompt or messages")
        if self.raw and self.messages is not None:
            raise ValueError("raw goes with prompt, not with messages")
        return self

    def for_runner(self) -> bytes:
        """Return the body as the runner takes it: without what concerns the controller alone."""
        return self.model_dump_json(exclude={"model_id", "keep_alive"}, exclude_none=True).encode()


class OpenAIBody(Body):
    """What the controller needs of a body of the OpenAI API; the runner checks the rest of it."""

    model_config = ConfigDict(extra="ignore")

    model: Name
    stream: bool | None = None


class EmbeddingsBody(OpenAIBody):
    """`POST /v1/embeddings`: that there is something to embed."""

    input: Any

    @field_validator("input")
    @classmethod
    def _something(cls, value: Any) -> Any:
        if not value or not isinstance(value, (str, list)):
            raise ValueError("give a text, a list of texts, or the tokens of one or of several")
        return value


B = TypeVar("B", bound=Body)


def raw_body() -> bytes:
    """Return the whole body of the current request.

    Raises BodyInvalid if it does not arrive whole, RequestTimeout if it comes too slowly, Overloaded while too many
    slow ones are waited for, RequestEntityTooLarge if it is too large.
    """
    try:
        raw = request.get_data(cache=False)
    except ClientDisconnected as exc:
        # werkzeug's own words for whatever the server's stream raised.
        raise _body_error(exc.__context__) from exc
    except BODY_ERRORS as exc:
        raise _body_error(exc) from exc
    # The bound is one byte more than what is allowed, see `create_app`.
    if len(raw) >= (current_app.config["MAX_CONTENT_LENGTH"] or 0):
        raise RequestEntityTooLarge
    return raw


def _body_error(cause: BaseException | None) -> OrchestrarError:
    if isinstance(cause, NoReaderLeft):
        return Overloaded(f"{cause}; try again soon")
    if isinstance(cause, TimeoutError):
        return RequestTimeout(f"the request's body came too slowly: {cause}")
    return BodyInvalid(f"the request body did not arrive whole: {cause or 'the client closed the connection'}")


def read_body(kind: type[B], raw: bytes) -> B:
    """Validate a raw JSON body; raise BodyInvalid with each field and what is wrong with it.

    pydantic reads the bytes itself: its parser bounds the depth, and refuses bad UTF-8 and non-finite numbers.
    """
    try:
        return kind.model_validate_json(raw or b"{}")
    except ValidationError as exc:
        errors = exc.errors(include_url=False, include_input=False)
        problems = [_problem(dict(error), list(kind.model_fields)) for error in errors]
        message = "; ".join(f"{field}: {text}" if field else text for field, text in problems)
        raise BodyInvalid(f"the request body is not usable: {message}", param=problems[0][0] or None) from exc


def _problem(error: dict[str, Any], fields: list[str]) -> tuple[str, str]:
    field = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        similar = get_close_matches(field, fields, n=1)
        return field, "is not a known field" + (f"; did you mean {similar[0]}?" if similar else "")
    if error["type"] == "json_invalid":
        return (
            field,
            f'{error["msg"]}; send JSON such as {{"model_id": "…"}}, with double quotes',
        )
    text = {"missing": "is required"}.get(error["type"], error["msg"])
    return field, text.removeprefix("Value error, ")
